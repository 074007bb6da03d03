/* What each PTX instruction does, as a C function whose name is the opcode with _ for every dot.

   An opcode without a function here does not compile, so none is guessed. Registers are unsigned,
   float or double; .ftz takes subnormal float32 numbers as zeros, and gives zeros for them. */

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int8_t s8;
typedef int16_t s16;
typedef int32_t s32;
typedef int64_t s64;
typedef u8 pred;

typedef struct {
    u32 tid[3], ntid[3], ctaid[3], nctaid[3];
    char *shared;               /* memory of the block */
    const char *const *params;  /* of the kernel */
    void (*meet)(u32 mask, u32 line);
    void (*fail)(const char *why, u64 what);
} Thread;

typedef struct {
    const char *name;
    void (*run)(const Thread *);
    u32 n_params, shared_bytes, has_barrier;
    const u32 *param_bytes;
} Kernel;

#define OP static inline __attribute__((unused, always_inline))

/* An address that is no multiple of the size would stop a GPU. */
OP u64 aligned(const Thread *t, u64 address, u64 size) {
    if (__builtin_expect(address % size != 0, 0)) t->fail("an address that is not aligned", address);
    return address;
}

#define AS(to, from, name) OP to name(from x) { to y; memcpy(&y, &x, sizeof y); return y; }
AS(float, u32, f32_of) AS(double, u64, f64_of) AS(u32, float, bits32) AS(u64, double, bits64)

/* Integers: T names the type, U the register, S the type it is read as. */
#define INTEGER(T, U, S) \
    OP U add_##T(U a, U b) { return a + b; } \
    OP U sub_##T(U a, U b) { return a - b; } \
    OP U mul_lo_##T(U a, U b) { return a * b; } \
    OP U mad_lo_##T(U a, U b, U c) { return a * b + c; } \
    OP U min_##T(U a, U b) { return (S)a < (S)b ? a : b; } \
    OP U max_##T(U a, U b) { return (S)a > (S)b ? a : b; } \
    OP U neg_##T(U a) { return -a; } \
    OP pred setp_eq_##T(U a, U b) { return a == b; } \
    OP pred setp_ne_##T(U a, U b) { return a != b; } \
    OP pred setp_lt_##T(U a, U b) { return (S)a < (S)b; } \
    OP pred setp_le_##T(U a, U b) { return (S)a <= (S)b; } \
    OP pred setp_gt_##T(U a, U b) { return (S)a > (S)b; } \
    OP pred setp_ge_##T(U a, U b) { return (S)a >= (S)b; } \
    OP U shr_##T(U a, u32 n) { const u32 most = 8 * sizeof a - 1; \
        return (S)a >> (n < most ? n : most) >> (n > most); } \
    OP U selp_##T(U a, U b, pred p) { return p ? a : b; } \
    OP U mov_##T(U a) { return a; }
INTEGER(u16, u16, u16) INTEGER(s16, u16, s16) INTEGER(u32, u32, u32)
INTEGER(s32, u32, s32) INTEGER(u64, u64, u64) INTEGER(s64, u64, s64)

#define BITS(T, U) \
    OP pred setp_eq_##T(U a, U b) { return a == b; } \
    OP pred setp_ne_##T(U a, U b) { return a != b; } \
    OP U and_##T(U a, U b) { return a & b; } \
    OP U or_##T(U a, U b) { return a | b; } \
    OP U xor_##T(U a, U b) { return a ^ b; } \
    OP U not_##T(U a) { return ~a; } \
    OP U shl_##T(U a, u32 n) { return n < 8 * sizeof a ? a << n : 0; } \
    OP U shr_##T(U a, u32 n) { return n < 8 * sizeof a ? a >> n : 0; } \
    OP U selp_##T(U a, U b, pred p) { return p ? a : b; } \
    OP U mov_##T(U a) { return a; }
BITS(b16, u16) BITS(b32, u32) BITS(b64, u64)

OP pred and_pred(pred a, pred b) { return a & b; }
OP pred or_pred(pred a, pred b) { return a | b; }
OP pred xor_pred(pred a, pred b) { return a ^ b; }
OP pred not_pred(pred a) { return !a; }
OP pred mov_pred(s64 a) { return a != 0; }

OP u64 mul_wide_u32(u32 a, u32 b) { return (u64)a * b; }
OP u64 mul_wide_s32(u32 a, u32 b) { return (s64)(s32)a * (s32)b; }
OP u32 mul_wide_u16(u16 a, u16 b) { return (u32)a * b; }
OP u32 mul_wide_s16(u16 a, u16 b) { return (s32)(s16)a * (s16)b; }
OP u32 mul_hi_u32(u32 a, u32 b) { return (u64)a * b >> 32; }
OP u32 mul_hi_s32(u32 a, u32 b) { return (s64)(s32)a * (s32)b >> 32; }
OP u64 mul_hi_u64(u64 a, u64 b) { return (unsigned __int128)a * b >> 64; }
OP u64 mul_hi_s64(u64 a, u64 b) { return (__int128)(s64)a * (s64)b >> 64; }

/* What a division by zero gives differs between GPUs. */
#define DIVISION(T, U, S) \
    OP U div_##T(const Thread *t, U a, U b) { \
        if (!b) t->fail("a division by zero of", a); \
        return (S)-1 < 0 && b == (U)-1 ? -a : (U)((S)a / (S)b); } \
    OP U rem_##T(const Thread *t, U a, U b) { \
        if (!b) t->fail("a remainder of a division by zero of", a); \
        return (S)-1 < 0 && b == (U)-1 ? 0 : (U)((S)a % (S)b); }
DIVISION(u32, u32, u32) DIVISION(s32, u32, s32) DIVISION(u64, u64, u64) DIVISION(s64, u64, s64)
#define div_u32(a, b) div_u32(t, a, b)
#define div_s32(a, b) div_s32(t, a, b)
#define div_u64(a, b) div_u64(t, a, b)
#define div_s64(a, b) div_s64(t, a, b)
#define rem_u32(a, b) rem_u32(t, a, b)
#define rem_s32(a, b) rem_s32(t, a, b)
#define rem_u64(a, b) rem_u64(t, a, b)
#define rem_s64(a, b) rem_s64(t, a, b)

/* Floating point. A float32 that is not a number always has the bits 0x7fffffff. */
OP float kept_f32(float x) { return x; }
OP float flushed(float x) { return fabsf(x) < FLT_MIN ? copysignf(0, x) : x; }
OP float one_nan(float x) { return x == x ? x : f32_of(0x7fffffff); }
OP double kept_f64(double x) { return x; }

#define REAL(how, T, U, IN, OUT, fma_of, sqrt_of) \
    OP U add_##how(U a, U b) { return OUT(IN(a) + IN(b)); } \
    OP U sub_##how(U a, U b) { return OUT(IN(a) - IN(b)); } \
    OP U mul_##how(U a, U b) { return OUT(IN(a) * IN(b)); } \
    OP U fma_##how(U a, U b, U c) { return OUT(fma_of(IN(a), IN(b), IN(c))); } \
    OP U div_##how(U a, U b) { return OUT(IN(a) / IN(b)); } \
    OP U rcp_##how(U a) { return OUT(1 / IN(a)); } \
    OP U sqrt_##how(U a) { return OUT(sqrt_of(IN(a))); }
#define FLUSH_NAN(x) one_nan(flushed(x))
REAL(rn_f32, f32, float, kept_f32, one_nan, fmaf, sqrtf)
REAL(rn_ftz_f32, f32, float, flushed, FLUSH_NAN, fmaf, sqrtf)
REAL(rn_f64, f64, double, kept_f64, kept_f64, fma, sqrt)

/* abs and neg change the sign alone; the smaller and larger of a number and none is the number. */
#define COMPARED(how, U, IN, NONE) \
    OP U min_##how(U a, U b) { a = IN(a); b = IN(b); \
        if (a != a) return b == b ? b : NONE; \
        return b != b || a < b || (a == b && signbit(a)) ? a : b; } \
    OP U max_##how(U a, U b) { a = IN(a); b = IN(b); \
        if (a != a) return b == b ? b : NONE; \
        return b != b || a > b || (a == b && !signbit(a)) ? a : b; } \
    OP pred setp_eq_##how(U a, U b) { return IN(a) == IN(b); } \
    OP pred setp_lt_##how(U a, U b) { return IN(a) < IN(b); } \
    OP pred setp_le_##how(U a, U b) { return IN(a) <= IN(b); } \
    OP pred setp_gt_##how(U a, U b) { return IN(a) > IN(b); } \
    OP pred setp_ge_##how(U a, U b) { return IN(a) >= IN(b); } \
    OP pred setp_ne_##how(U a, U b) { return IN(a) < IN(b) || IN(a) > IN(b); } \
    OP pred setp_neu_##how(U a, U b) { return !(IN(a) == IN(b)); } \
    OP pred setp_ltu_##how(U a, U b) { return !(IN(a) >= IN(b)); } \
    OP pred setp_leu_##how(U a, U b) { return !(IN(a) > IN(b)); } \
    OP pred setp_gtu_##how(U a, U b) { return !(IN(a) <= IN(b)); } \
    OP pred setp_geu_##how(U a, U b) { return !(IN(a) < IN(b)); } \
    OP pred setp_equ_##how(U a, U b) { return !(IN(a) < IN(b) || IN(a) > IN(b)); } \
    OP pred setp_num_##how(U a, U b) { return a == a && b == b; } \
    OP pred setp_nan_##how(U a, U b) { return a != a || b != b; }
COMPARED(f32, float, kept_f32, f32_of(0x7fffffff))
COMPARED(ftz_f32, float, flushed, f32_of(0x7fffffff))
COMPARED(f64, double, kept_f64, f64_of(0x7fffffffffffffff))

OP float abs_f32(float a) { return f32_of(bits32(a) & 0x7fffffff); }
OP float neg_f32(float a) { return f32_of(bits32(a) ^ 0x80000000); }
OP float abs_ftz_f32(float a) { return abs_f32(flushed(a)); }
OP float neg_ftz_f32(float a) { return neg_f32(flushed(a)); }
OP double abs_f64(double a) { return f64_of(bits64(a) & ~(1ull << 63)); }
OP double neg_f64(double a) { return f64_of(bits64(a) ^ 1ull << 63); }
OP float mov_f32(float a) { return a; }
OP double mov_f64(double a) { return a; }
OP float selp_f32(float a, float b, pred p) { return p ? a : b; }
OP double selp_f64(double a, double b, pred p) { return p ? a : b; }

/* Begins a series that NVVM refines. Which bits a GPU begins with is not published; the upper half
   of the quotient, rounded down, is as near as they are said to be. */
OP double rcp_approx_ftz_f64(double a) {
    a = f64_of(bits64(a) & 0xffffffff00000000);
    double quotient = 1 / (fabs(a) < DBL_MIN ? copysign(0, a) : a);
    if (fabs(quotient) < DBL_MIN) quotient = copysign(0, quotient);
    return f64_of(bits64(quotient) & 0xffffffff00000000);
}

/* Conversions, named to and from. */
OP u32 cvt_u32_u64(u64 a) { return a; }
OP u16 cvt_u16_u32(u32 a) { return a; }
OP u16 cvt_u16_u64(u64 a) { return a; }
OP u32 cvt_u32_u16(u16 a) { return a; }
OP u64 cvt_u64_u16(u16 a) { return a; }
OP u64 cvt_u64_u32(u32 a) { return a; }
OP u32 cvt_s32_s16(u16 a) { return (s32)(s16)a; }
OP u64 cvt_s64_s16(u16 a) { return (s64)(s16)a; }
OP u64 cvt_s64_s32(u32 a) { return (s64)(s32)a; }
OP float cvt_rn_f32_s32(u32 a) { return (s32)a; }
OP float cvt_rn_f32_s64(u64 a) { return (s64)a; }
OP float cvt_rn_f32_u32(u32 a) { return a; }
OP float cvt_rn_f32_u64(u64 a) { return a; }
OP double cvt_rn_f64_s32(u32 a) { return (s32)a; }
OP double cvt_rn_f64_s64(u64 a) { return (s64)a; }
OP double cvt_rn_f64_u32(u32 a) { return a; }
OP double cvt_rn_f64_u64(u64 a) { return a; }
OP double cvt_f64_f32(float a) { return a; }
OP double cvt_ftz_f64_f32(float a) { return flushed(a); }
OP float cvt_rn_f32_f64(double a) { return one_nan(a); }
OP float cvt_rn_ftz_f32_f64(double a) { return FLUSH_NAN((float)a); }
OP double cvt_rzi_f64_f64(double a) { return trunc(a); }
OP double cvt_rpi_f64_f64(double a) { return ceil(a); }
OP double cvt_rmi_f64_f64(double a) { return floor(a); }
OP double cvt_rni_f64_f64(double a) { return rint(a); }
OP u64 cvt_rzi_s64_f64(double a) {
    if (a != a || a < -0x1p63) return 1ull << 63;
    return a >= 0x1p63 ? ~(1ull << 63) : (u64)(s64)a;
}
OP u32 cvt_rzi_s32_f64(double a) {
    return a != a ? 0 : a >= 0x1p31 ? 0x7fffffff : a <= -0x1p31 ? 0x80000000 : (u32)(s32)a;
}
