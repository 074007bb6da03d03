/* A libcuda.so.1 whose one GPU is this machine's CPU.

   What a stream is given waits until something makes the host wait for it ("late"), or is done at
   once. Every array ends where a page ends that nobody may touch, and is full of ones at first, so
   a kernel that reads or writes behind one stops with its name, and what was never written shows.
   Functions of the real driver that are not here are not found. */

#define _GNU_SOURCE
#include <cuda.h>
#include <dlfcn.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "ptx.h"

enum { PAGE = 4096, STACK = 1 << 20, MOST_THREADS = 1024 };
enum { UP, DOWN };  /* orders; a larger number is the seed of a shuffled one */

static struct { int order, is_late, n_gpus; const char *(*load)(const char *ptx); } how;
static struct { unsigned long launches, graph_launches, blocks, arrays, gpus; } done;

void emulate(const char *(*load)(const char *), int order, int is_late, int n_gpus) {
    how.load = load, how.order = order, how.is_late = is_late, how.n_gpus = n_gpus;
}
unsigned long count_of(int what) { return ((unsigned long *)&done)[what]; }

/* One thread of the host at a time; what it does may come back here. */
static pthread_mutex_t mutex = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static int lock(void) { return pthread_mutex_lock(&mutex); }
static void unlock(int *is_locked) { (void)is_locked, pthread_mutex_unlock(&mutex); }
#define LOCKED int is_locked __attribute__((unused, cleanup(unlock))) = lock()

/* GPUs: the context of each is its place here. */

enum { MOST_GPUS = 8 };
static char gpus[MOST_GPUS];
static _Thread_local CUcontext contexts[64];
static _Thread_local int depth;
static int has_context(void) { return depth && contexts[depth - 1]; }
static int gpu(void) { return has_context() ? (char *)contexts[depth - 1] - gpus : 0; }

/* Memory. */

typedef struct Room { char *base, *start; size_t size, mapped; int gpu; struct Room *next; } Room;
static Room *rooms;

static Room *new_room(size_t size) {
    Room *room = calloc(1, sizeof *room);
    size_t pages = (size + PAGE - 1) / PAGE * PAGE;
    room->size = size, room->mapped = pages + PAGE, room->gpu = gpu();
    room->base = mmap(NULL, room->mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (room->base == MAP_FAILED) return free(room), NULL;
    mprotect(room->base + pages, PAGE, PROT_NONE);
    room->start = room->base + (pages - size) / 16 * 16;
    memset(room->base, 0xff, pages);
    return room;
}

static Room *room_of(CUdeviceptr at) {
    LOCKED;
    for (Room *room = rooms; room; room = room->next)
        if (at >= (u64)room->start && at < (u64)room->start + room->size) return room;
    return NULL;
}

/* Threads: those of a block take turns, each on a stack of its own. */

#define WARP 32
/* A thread that waits does so for those of its warp in `mask`, or for the whole block: 0. */
typedef struct {
    ucontext_t first; jmp_buf at; int is_begun, is_over, is_free; u32 mask, line;
} Fiber;
static Fiber fibers[MOST_THREADS];
static Thread threads[MOST_THREADS];
static const Kernel *running;
static u32 self;
static jmp_buf scheduler;

static void stop(const char *why, u64 what) {
    const Thread *t = &threads[self];
    fprintf(stderr, "emulated GPU: %s %#lx in %.80s, block (%u, %u, %u), thread %u\n", why,
            (unsigned long)what, running ? running->name : "no kernel", t->ctaid[0], t->ctaid[1],
            t->ctaid[2], self);
    _exit(70);
}

static void out_of_bounds(int number, siginfo_t *info, void *context) {
    (void)number, (void)context;
    stop("an address outside of every array", (u64)info->si_addr);
}

static void meet(u32 mask, u32 line) {
    Fiber *own = &fibers[self];
    own->mask = mask, own->line = line, own->is_free = 0;
    if (mask && !(mask >> self % WARP & 1)) stop("a barrier of others:", mask);
    if (!_setjmp(own->at)) _longjmp(scheduler, 1);
}

static void live(void) {
    for (;;) {
        Fiber *own = &fibers[self];
        running->run(&threads[self]);
        own->is_over = 1;
        if (!_setjmp(own->at)) _longjmp(scheduler, 1);
    }
}

static void resume(u32 thread) {
    Fiber *own = &fibers[thread];
    self = thread;
    if (_setjmp(scheduler)) return;
    if (own->is_begun) _longjmp(own->at, 1);
    own->is_begun = 1;
    getcontext(&own->first);
    own->first.uc_stack.ss_sp = mmap(NULL, STACK, PROT_READ | PROT_WRITE,
                                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    own->first.uc_stack.ss_size = STACK;
    makecontext(&own->first, live, 0);
    setcontext(&own->first);
}

/* The place-th of n, in the order asked for. */
static void arrange(u32 *order, u32 n, u64 *seed) {
    for (u32 i = 0; i < n; i++) order[i] = how.order == DOWN ? n - 1 - i : i;
    if (how.order > DOWN)
        for (u32 i = n; i > 1; i--) {
            *seed = *seed * 6364136223846793005u + 1442695040888963407u;
            u32 j = (*seed >> 33) % i, kept = order[i - 1];
            order[i - 1] = order[j], order[j] = kept;
        }
}

/* Whether all that this thread waits for wait for it, at the same place. */
static int has_met(u32 n) {
    Fiber *own = &fibers[self];
    u32 first = own->mask ? self / WARP * WARP : 0, end = own->mask ? first + WARP : n;
    for (u32 i = first; i < end; i++) {
        if (own->mask && !(own->mask >> (i - first) & 1)) continue;
        if (i >= n || fibers[i].is_over) stop("a barrier that not every thread comes to: ended is", i);
        if (fibers[i].mask != own->mask || fibers[i].line != own->line) return 0;
    }
    return 1;
}

static void run_block(u32 n, u64 *seed) {
    u32 order[MOST_THREADS];
    arrange(order, n, seed);
    done.blocks++;
    if (!running->has_barrier) {
        for (u32 i = 0; i < n; i++) self = order[i], running->run(&threads[self]);
        return;
    }
    for (u32 i = 0; i < n; i++) fibers[i].is_over = 0, fibers[i].is_free = 1;
    for (u32 n_left = n, n_free = n; n_left;) {
        for (u32 i = 0; i < n; i++) if (fibers[order[i]].is_free) resume(order[i]);
        n_left = n_free = 0;
        for (self = 0; self < n; self++) {
            fibers[self].is_free = !fibers[self].is_over && has_met(n);
            n_left += !fibers[self].is_over, n_free += fibers[self].is_free;
        }
        self = 0;
        if (n_left && !n_free) stop("another barrier of some of the threads that wait:", n_left);
        arrange(order, n, seed);
    }
}

/* Work: what a stream waits for, and what a graph is made of. */

typedef struct Work {
    enum { LAUNCH, COPY, FILL, GRAPH, CALL } kind;
    const Kernel *kernel;
    u32 grid[3], block[3];
    char **params;
    u64 to, from, size;
    u32 value, width;
    struct CUgraphExec_st *graph;
    CUhostFn call;
    void *data;
    struct Work *next;
} Work;

struct CUstream_st { Work *first, *last; struct CUgraph_st *captured; int is_blocking, is_open;
                     CUstreamCaptureMode mode; CUstream next; unsigned long id; int gpu; };
struct CUgraph_st { Work *first, *last; };
struct CUgraphExec_st { Work *first; };
struct CUevent_st { CUstream stream; };
struct CUuserObject_st { void *data; CUhostFn destroy; unsigned n; };

static struct CUstream_st legacy = {.is_blocking = 1, .is_open = 1};
static CUstream streams = &legacy;

static void do_launch(const Work *work) {
    static u64 seed = 1;
    u32 *g = (u32 *)work->grid, *b = (u32 *)work->block, n = b[0] * b[1] * b[2];
    u64 n_blocks = (u64)g[0] * g[1] * g[2];
    u32 *order = malloc(n_blocks * sizeof *order);
    Room *shared = new_room(work->kernel->shared_bytes + 16);
    struct sigaction act = {.sa_sigaction = out_of_bounds, .sa_flags = SA_SIGINFO}, segv, bus;
    sigaction(SIGSEGV, &act, &segv), sigaction(SIGBUS, &act, &bus);
    seed += how.order;
    running = work->kernel;
    arrange(order, n_blocks, &seed);
    for (u64 k = 0; k < n_blocks; k++) {
        if (running->shared_bytes) memset(shared->start, 0xff, shared->size);
        u32 at[3] = {order[k] % g[0], order[k] / g[0] % g[1], order[k] / g[0] / g[1]};
        for (u32 i = 0; i < n; i++) {
            Thread *t = &threads[i];
            u32 tid[3] = {i % b[0], i / b[0] % b[1], i / b[0] / b[1]};
            memcpy(t->tid, tid, sizeof tid), memcpy(t->ctaid, at, sizeof at);
            memcpy(t->ntid, b, sizeof tid), memcpy(t->nctaid, g, sizeof tid);
            t->shared = shared->start + 16, t->params = (const char *const *)work->params;
            t->meet = meet, t->fail = stop;
        }
        run_block(n, &seed);
    }
    running = NULL;
    sigaction(SIGSEGV, &segv, NULL), sigaction(SIGBUS, &bus, NULL);
    munmap(shared->base, shared->mapped), free(shared), free(order);
    done.launches++;
}

static void perform(const Work *work) {
    if (work->kind == LAUNCH) do_launch(work);
    if (work->kind == COPY) memmove((void *)work->to, (void *)work->from, work->size);
    if (work->kind == FILL)
        for (u64 i = 0; i < work->size; i++)
            memcpy((char *)work->to + i * work->width, &work->value, work->width);
    if (work->kind == CALL) work->call(work->data);
    if (work->kind == GRAPH) {
        done.graph_launches++;
        for (const Work *each = work->graph->first; each; each = each->next) perform(each);
    }
}

static void drain(CUstream s) {
    LOCKED;
    while (s->first) {
        Work *work = s->first;
        s->first = work->next;
        perform(work);
        free(work->params), free(work);
    }
    s->last = NULL;
}

static void drain_all(void) { LOCKED; for (CUstream s = streams; s; s = s->next) drain(s); }

static CUstream stream_of(CUstream s) { return (u64)s <= 2 ? &legacy : s; }

/* Work that is put into a stream; the legacy stream and those that heed it wait for each other. */
static CUresult submit(CUstream handle, Work work, int is_awaited) {
    LOCKED;
    CUstream s = stream_of(handle);
    if (!has_context()) return CUDA_ERROR_INVALID_CONTEXT;
    if (s != &legacy && s->gpu != gpu()) return CUDA_ERROR_INVALID_CONTEXT;
    if (!s->is_open) return CUDA_ERROR_INVALID_HANDLE;
    if (s->captured && is_awaited) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    for (CUstream each = streams; each && s == &legacy; each = each->next)
        if (each->captured && each->is_blocking) return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
    Work *own = malloc(sizeof *own);
    *own = work, own->next = NULL;
    if (s->captured) {
        struct CUgraph_st *g = s->captured;
        if (g->last) g->last->next = own; else g->first = own;
        g->last = own;
        return CUDA_SUCCESS;
    }
    if (s == &legacy) {
        for (CUstream each = streams; each; each = each->next) if (each->is_blocking) drain(each);
    } else if (s->is_blocking) drain(&legacy);
    if (s->last) s->last->next = own; else s->first = own;
    s->last = own;
    if (!how.is_late || is_awaited) drain(s);
    return CUDA_SUCCESS;
}

static CUresult await(CUstream handle) {
    LOCKED;
    CUstream s = stream_of(handle);
    if (s->captured) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    if (s == &legacy) {
        for (CUstream each = streams; each; each = each->next) if (each->is_blocking) drain(each);
    } else if (s->is_blocking) drain(&legacy);
    drain(s);
    return CUDA_SUCCESS;
}

/* While a stream records in the strict mode, nothing may make the host wait. */
static int is_forbidden(void) {
    LOCKED;
    for (CUstream s = streams; s; s = s->next)
        if (s->captured && s->mode == CU_STREAM_CAPTURE_MODE_GLOBAL) return 1;
    return 0;
}

/* The driver's functions. What `cuda.h` renames is found under its newest name. */

#define API __attribute__((visibility("default"))) CUresult CUDAAPI
#define NEEDS_CONTEXT do { if (!has_context()) return CUDA_ERROR_INVALID_CONTEXT; } while (0)
#define NEEDS(condition) do { if (!(condition)) return CUDA_ERROR_INVALID_VALUE; } while (0)

API cuGetProcAddress(const char *name, void **function, int version, cuuint64_t flags,
                     CUdriverProcAddressQueryResult *status) {
    static const char *const versions[] = {"_v4", "_v3", "_v2", ""};
    static void *own;
    char full[256];
    (void)flags;
    if (!own) {
        Dl_info info;
        dladdr((void *)cuInit, &info);
        own = dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    }
    *function = NULL;
    /* The one function of which both sorts of arguments are in use. */
    int is_old = version < 12030 && !strcmp(name, "cuStreamGetCaptureInfo");
    for (int i = is_old ? 2 : 0; i < 4 && !*function; i++) {
        snprintf(full, sizeof full, "%s%s", name, versions[i]);
        *function = dlsym(own, full);
    }
    if (status) *status = *function ? CU_GET_PROC_ADDRESS_SUCCESS
                                    : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    return *function ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

API cuInit(unsigned flags) { (void)flags; return CUDA_SUCCESS; }
API cuDriverGetVersion(int *version) { *version = CUDA_VERSION; return CUDA_SUCCESS; }
API cuGetErrorName(CUresult e, const char **s) { (void)e; *s = "an error"; return CUDA_SUCCESS; }
API cuGetErrorString(CUresult e, const char **s) { (void)e; *s = "an error"; return CUDA_SUCCESS; }
API cuDeviceGetCount(int *count) { *count = how.n_gpus; return CUDA_SUCCESS; }
API cuDeviceGet(CUdevice *device, int i) {
    NEEDS(0 <= i && i < how.n_gpus);
    *device = i;
    return CUDA_SUCCESS;
}
API cuDeviceGetName(char *name, int n, CUdevice d) {
    (void)d, snprintf(name, n, "Emulated GPU");
    return CUDA_SUCCESS;
}
API cuDeviceGetUuid(CUuuid *id, CUdevice d) { memset(id, 1 + d, sizeof *id); return 0; }
API cuDeviceTotalMem(size_t *n, CUdevice d) { (void)d, *n = 8ull << 30; return CUDA_SUCCESS; }
API cuMemGetInfo(size_t *left, size_t *all) { *left = *all = 8ull << 30; return CUDA_SUCCESS; }
API cuDeviceGetAttribute(int *value, CUdevice_attribute which, CUdevice d) {
    (void)d;
    switch (which) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = 9; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = 0; break;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE: *value = 32; break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = 132; break;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = MOST_THREADS; break;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X: *value = MOST_THREADS; break;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y: *value = MOST_THREADS; break;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z: *value = 64; break;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X: *value = 0x7fffffff; break;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y: *value = 65535; break;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z: *value = 65535; break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK: *value = 49152; break;
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING: *value = 1; break;
    default: *value = 0;
    }
    return CUDA_SUCCESS;
}

API cuDevicePrimaryCtxRetain(CUcontext *c, CUdevice d) {
    NEEDS(0 <= d && d < how.n_gpus);
    *c = (CUcontext)&gpus[d];
    return CUDA_SUCCESS;
}
API cuDevicePrimaryCtxRelease(CUdevice d) { (void)d; return CUDA_SUCCESS; }
API cuDevicePrimaryCtxGetState(CUdevice d, unsigned *flags, int *is_active) {
    (void)d, *flags = 0, *is_active = 1;
    return CUDA_SUCCESS;
}
API cuCtxGetCurrent(CUcontext *c) { *c = depth ? contexts[depth - 1] : NULL; return CUDA_SUCCESS; }
API cuCtxSetCurrent(CUcontext c) {
    if (!depth) depth = 1;
    contexts[depth - 1] = c;
    return CUDA_SUCCESS;
}
API cuCtxPushCurrent(CUcontext c) { NEEDS(depth < 64); contexts[depth++] = c; return CUDA_SUCCESS; }
API cuCtxPopCurrent(CUcontext *c) { NEEDS(depth); *c = contexts[--depth]; return CUDA_SUCCESS; }
API cuCtxGetDevice(CUdevice *d) { *d = gpu(); return CUDA_SUCCESS; }
API cuCtxGetId(CUcontext c, unsigned long long *id) {
    *id = c ? 1 + ((char *)c - gpus) : 1 + gpu();
    return CUDA_SUCCESS;
}
API cuCtxSynchronize(void) {
    NEEDS_CONTEXT;
    if (is_forbidden()) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    drain_all();
    return CUDA_SUCCESS;
}

API cuMemAlloc(CUdeviceptr *at, size_t size) {
    if (is_forbidden()) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    NEEDS(size);
    NEEDS_CONTEXT;
    LOCKED;
    Room *room = new_room(size);
    if (!room) return CUDA_ERROR_OUT_OF_MEMORY;
    room->next = rooms, rooms = room, done.arrays++, done.gpus |= 1 << gpu();
    *at = (CUdeviceptr)room->start;
    return CUDA_SUCCESS;
}
API cuMemFree(CUdeviceptr at) {
    NEEDS_CONTEXT;
    if (is_forbidden()) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    LOCKED;
    drain_all();
    for (Room **link = &rooms; *link; link = &(*link)->next)
        if ((CUdeviceptr)(*link)->start == at) {
            Room *room = *link;
            *link = room->next, done.arrays--;
            /* For a while nobody else gets the addresses: whoever still uses them is found. */
            static Room *kept[8192];
            static u32 n_kept;
            Room **place = &kept[n_kept++ % 8192];
            if (*place) munmap((*place)->base, (*place)->mapped), free(*place);
            mprotect(room->base, room->mapped, PROT_NONE);
            madvise(room->base, room->mapped, MADV_DONTNEED);
            *place = room;
            return CUDA_SUCCESS;
        }
    return CUDA_ERROR_INVALID_VALUE;
}
API cuMemHostAlloc(void **at, size_t size, unsigned flags) {
    (void)flags, *at = calloc(1, size);
    return CUDA_SUCCESS;
}
API cuMemFreeHost(void *at) { drain_all(), free(at); return CUDA_SUCCESS; }
API cuMemHostGetDevicePointer(CUdeviceptr *at, void *host, unsigned flags) {
    (void)flags, *at = (CUdeviceptr)host;
    return CUDA_SUCCESS;
}
API cuMemGetAddressRange(CUdeviceptr *start, size_t *size, CUdeviceptr at) {
    Room *room = room_of(at);
    NEEDS(room);
    if (start) *start = (CUdeviceptr)room->start;
    if (size) *size = room->size;
    return CUDA_SUCCESS;
}
API cuPointerGetAttribute(void *value, CUpointer_attribute which, CUdeviceptr at) {
    NEEDS(room_of(at));
    switch (which) {
    case CU_POINTER_ATTRIBUTE_CONTEXT: *(CUcontext *)value = (CUcontext)&gpus[room_of(at)->gpu]; break;
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE: *(unsigned *)value = CU_MEMORYTYPE_DEVICE; break;
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER: *(CUdeviceptr *)value = at; break;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL: *(int *)value = room_of(at)->gpu; break;
    default: return CUDA_ERROR_NOT_SUPPORTED;
    }
    return CUDA_SUCCESS;
}

static CUresult copy(u64 to, u64 from, size_t n, CUstream s, int is_awaited) {
    if (!n) return CUDA_SUCCESS;
    return submit(s, (Work){.kind = COPY, .to = to, .from = from, .size = n}, is_awaited);
}
#define WITHIN(at, n) NEEDS((n) == 0 || (room_of(at) && room_of((at) + (n) - 1) == room_of(at)))
API cuMemcpyHtoD(CUdeviceptr to, const void *from, size_t n) {
    WITHIN(to, n);
    return copy(to, (u64)from, n, NULL, 1);
}
API cuMemcpyDtoH(void *to, CUdeviceptr from, size_t n) {
    WITHIN(from, n);
    return copy((u64)to, from, n, NULL, 1);
}
API cuMemcpyDtoD(CUdeviceptr to, CUdeviceptr from, size_t n) {
    WITHIN(to, n);
    WITHIN(from, n);
    return copy(to, from, n, NULL, 0);
}
API cuMemcpyHtoDAsync(CUdeviceptr to, const void *from, size_t n, CUstream s) {
    WITHIN(to, n);
    return copy(to, (u64)from, n, s, 0);
}
API cuMemcpyDtoHAsync(void *to, CUdeviceptr from, size_t n, CUstream s) {
    WITHIN(from, n);
    return copy((u64)to, from, n, s, 0);
}
API cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t n, CUstream s) {
    WITHIN(to, n);
    WITHIN(from, n);
    return copy(to, from, n, s, 0);
}
API cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t n, CUstream s) {
    return copy(to, from, n, s, 0);
}
static CUresult fill(CUdeviceptr to, u32 value, u32 width, size_t n, CUstream s) {
    WITHIN(to, n * width);
    return submit(s, (Work){.kind = FILL, .to = to, .value = value, .width = width, .size = n}, 0);
}
API cuMemsetD8(CUdeviceptr to, unsigned char v, size_t n) { return fill(to, v, 1, n, NULL); }
API cuMemsetD32(CUdeviceptr to, unsigned v, size_t n) { return fill(to, v, 4, n, NULL); }
API cuMemsetD8Async(CUdeviceptr to, unsigned char v, size_t n, CUstream s) {
    return fill(to, v, 1, n, s);
}
API cuMemsetD32Async(CUdeviceptr to, unsigned v, size_t n, CUstream s) {
    return fill(to, v, 4, n, s);
}

API cuStreamCreateWithPriority(CUstream *s, unsigned flags, int priority) {
    static unsigned long id = 2;
    (void)priority;
    LOCKED;
    *s = calloc(1, sizeof **s), (*s)->gpu = gpu();
    (*s)->is_blocking = !(flags & CU_STREAM_NON_BLOCKING), (*s)->is_open = 1, (*s)->id = ++id;
    (*s)->next = legacy.next, legacy.next = *s;
    return CUDA_SUCCESS;
}
API cuStreamCreate(CUstream *s, unsigned flags) { return cuStreamCreateWithPriority(s, flags, 0); }
API cuStreamDestroy(CUstream s) {  /* kept, so that one who still uses it is told */
    drain(s), s->is_open = 0;
    return CUDA_SUCCESS;
}
API cuStreamSynchronize(CUstream s) {
    if (is_forbidden()) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    return await(s);
}
API cuStreamQuery(CUstream s) { return await(s); }
API cuStreamGetFlags(CUstream s, unsigned *flags) {
    *flags = stream_of(s)->is_blocking ? CU_STREAM_DEFAULT : CU_STREAM_NON_BLOCKING;
    return CUDA_SUCCESS;
}
API cuStreamGetPriority(CUstream s, int *n) { (void)s, *n = 0; return CUDA_SUCCESS; }
API cuStreamGetId(CUstream s, unsigned long long *n) { *n = stream_of(s)->id; return CUDA_SUCCESS; }
API cuStreamGetDevice(CUstream s, CUdevice *d) {
    *d = stream_of(s) == &legacy ? gpu() : s->gpu;
    return CUDA_SUCCESS;
}
API cuStreamGetCtx_v2(CUstream s, CUcontext *c, CUgreenCtx *green) {
    CUdevice d;
    *green = NULL;
    return cuStreamGetDevice(s, &d), *c = (CUcontext)&gpus[d], CUDA_SUCCESS;
}
API cuCtxGetStreamPriorityRange(int *low, int *high) { *low = 0, *high = 0; return CUDA_SUCCESS; }
API cuStreamWaitEvent(CUstream s, CUevent e, unsigned flags) {
    (void)s, (void)flags;
    if (e->stream) drain(e->stream);
    return CUDA_SUCCESS;
}
API cuLaunchHostFunc(CUstream s, CUhostFn call, void *data) {
    return submit(s, (Work){.kind = CALL, .call = call, .data = data}, 0);
}

API cuEventCreate(CUevent *e, unsigned f) {
    (void)f, *e = calloc(1, sizeof **e);
    return CUDA_SUCCESS;
}
API cuEventDestroy(CUevent e) { free(e); return CUDA_SUCCESS; }
API cuEventRecord(CUevent e, CUstream s) { e->stream = stream_of(s); return CUDA_SUCCESS; }
API cuEventSynchronize(CUevent e) { return e->stream ? await(e->stream) : CUDA_SUCCESS; }
API cuEventQuery(CUevent e) { return cuEventSynchronize(e); }
API cuEventElapsedTime(float *ms, CUevent a, CUevent b) {
    (void)a, (void)b, *ms = 0;
    return CUDA_SUCCESS;
}

/* Programs: what is loaded is PTX, and becomes a library of this machine. */

API cuLibraryLoadData(CUlibrary *library, const void *code, CUjit_option *o, void **ov, unsigned n,
                      CUlibraryOption *lo, void **lov, unsigned ln) {
    (void)o, (void)ov, (void)n, (void)lo, (void)lov, (void)ln;
    const char *path = how.load ? how.load(code) : NULL;
    void *own = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
    if (!own) return CUDA_ERROR_INVALID_PTX;
    *library = (CUlibrary)dlsym(own, "kernels");
    return CUDA_SUCCESS;
}
API cuLibraryUnload(CUlibrary library) { (void)library; return CUDA_SUCCESS; }
API cuLibraryGetKernel(CUkernel *kernel, CUlibrary library, const char *name) {
    for (const Kernel *k = (const Kernel *)library; k->name; k++)
        if (!strcmp(k->name, name)) return *kernel = (CUkernel)k, CUDA_SUCCESS;
    return CUDA_ERROR_NOT_FOUND;
}
API cuKernelGetFunction(CUfunction *f, CUkernel k) { *f = (CUfunction)k; return CUDA_SUCCESS; }
API cuKernelGetLibrary(CUlibrary *l, CUkernel k) { *l = (CUlibrary)k; return CUDA_SUCCESS; }
API cuKernelGetAttribute(int *value, CUfunction_attribute which, CUkernel k, CUdevice d) {
    (void)d, *value = 0;
    if (which == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK) *value = MOST_THREADS;
    if (which == CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES) *value = ((const Kernel *)k)->shared_bytes;
    return CUDA_SUCCESS;
}
API cuKernelSetAttribute(CUfunction_attribute a, int v, CUkernel k, CUdevice d) {
    (void)a, (void)v, (void)k, (void)d;
    return CUDA_SUCCESS;
}

API cuLaunchKernelEx(const CUlaunchConfig *c, CUfunction f, void **params, void **extra) {
    const Kernel *k = (const Kernel *)f;
    u64 n = (u64)c->blockDimX * c->blockDimY * c->blockDimZ;
    NEEDS(!extra && !c->sharedMemBytes && n && n <= MOST_THREADS && c->gridDimX);
    NEEDS(c->gridDimY && c->gridDimY <= 65535 && c->gridDimZ && c->gridDimZ <= 65535);
    size_t size = k->n_params * sizeof(char *);
    for (u32 i = 0; i < k->n_params; i++) size += (k->param_bytes[i] + 7) / 8 * 8;
    char **own = malloc(size + 8), *at = (char *)(own + k->n_params);
    for (u32 i = 0; i < k->n_params; at += (k->param_bytes[i++] + 7) / 8 * 8)
        own[i] = memcpy(at, params[i], k->param_bytes[i]);
    for (u32 i = 0; i < k->n_params; i++) {
        Room *room = k->param_bytes[i] == 8 ? room_of(*(u64 *)own[i]) : NULL;
        if (room && room->gpu != gpu()) stop("memory of another GPU:", *(u64 *)own[i]);
    }
    return submit(c->hStream,
                  (Work){.kind = LAUNCH, .kernel = k, .params = own,
                         .grid = {c->gridDimX, c->gridDimY, c->gridDimZ},
                         .block = {c->blockDimX, c->blockDimY, c->blockDimZ}}, 0);
}
API cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                   unsigned bz, unsigned shared, CUstream s, void **params, void **extra) {
    CUlaunchConfig config = {gx, gy, gz, bx, by, bz, shared, s, NULL, 0};
    return cuLaunchKernelEx(&config, f, params, extra);
}

/* Graphs: what a stream was given while it recorded, in that order. */

API cuStreamBeginCapture(CUstream handle, CUstreamCaptureMode mode) {
    CUstream s = stream_of(handle);
    if (s == &legacy) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    if (s->captured) return CUDA_ERROR_ILLEGAL_STATE;
    s->captured = calloc(1, sizeof *s->captured), s->mode = mode;
    return CUDA_SUCCESS;
}
API cuStreamEndCapture(CUstream handle, CUgraph *graph) {
    CUstream s = stream_of(handle);
    if (!s->captured) return CUDA_ERROR_ILLEGAL_STATE;
    *graph = s->captured, s->captured = NULL;
    return CUDA_SUCCESS;
}
API cuStreamIsCapturing(CUstream s, CUstreamCaptureStatus *status) {
    *status = stream_of(s)->captured ? CU_STREAM_CAPTURE_STATUS_ACTIVE
                                     : CU_STREAM_CAPTURE_STATUS_NONE;
    return CUDA_SUCCESS;
}
API cuStreamGetCaptureInfo_v2(CUstream s, CUstreamCaptureStatus *status, cuuint64_t *id,
                              CUgraph *graph, const CUgraphNode **nodes, size_t *n) {
    if (id) *id = stream_of(s)->id;
    if (graph) *graph = stream_of(s)->captured;
    if (nodes) *nodes = NULL;
    if (n) *n = 0;
    return cuStreamIsCapturing(s, status);
}
API cuStreamGetCaptureInfo_v3(CUstream s, CUstreamCaptureStatus *status, cuuint64_t *id,
                              CUgraph *graph, const CUgraphNode **nodes,
                              const CUgraphEdgeData **edges, size_t *n) {
    if (edges) *edges = NULL;
    return cuStreamGetCaptureInfo_v2(s, status, id, graph, nodes, n);
}
API cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode *mode) {
    static _Thread_local CUstreamCaptureMode own = CU_STREAM_CAPTURE_MODE_GLOBAL;
    CUstreamCaptureMode before = own;
    own = *mode, *mode = before;
    return CUDA_SUCCESS;
}
API cuGraphCreate(CUgraph *graph, unsigned flags) {
    (void)flags, *graph = calloc(1, sizeof **graph);
    return CUDA_SUCCESS;
}
API cuGraphDestroy(CUgraph graph) { (void)graph; return CUDA_SUCCESS; }  /* its work is shared */
API cuGraphInstantiateWithFlags(CUgraphExec *exec, CUgraph graph, unsigned long long flags) {
    (void)flags, *exec = calloc(1, sizeof **exec);
    (*exec)->first = graph->first;
    return CUDA_SUCCESS;
}
API cuGraphInstantiateWithParams(CUgraphExec *exec, CUgraph g, CUDA_GRAPH_INSTANTIATE_PARAMS *p) {
    p->result_out = CUDA_GRAPH_INSTANTIATE_SUCCESS, p->hErrNode_out = NULL;
    return cuGraphInstantiateWithFlags(exec, g, p->flags);
}
API cuGraphUpload(CUgraphExec exec, CUstream s) { (void)exec, (void)s; return CUDA_SUCCESS; }
API cuGraphLaunch(CUgraphExec exec, CUstream s) {
    return submit(s, (Work){.kind = GRAPH, .graph = exec}, 0);
}
API cuGraphExecDestroy(CUgraphExec exec) { drain_all(), free(exec); return CUDA_SUCCESS; }
API cuUserObjectCreate(CUuserObject *object, void *data, CUhostFn destroy, unsigned n, unsigned f) {
    (void)f, *object = malloc(sizeof **object);
    **object = (struct CUuserObject_st){data, destroy, n};
    return CUDA_SUCCESS;
}
API cuUserObjectRelease(CUuserObject o, unsigned n) { (void)o, (void)n; return CUDA_SUCCESS; }
API cuGraphRetainUserObject(CUgraph g, CUuserObject o, unsigned n, unsigned flags) {
    (void)g, (void)o, (void)n, (void)flags;
    return CUDA_SUCCESS;
}
API cuGraphReleaseUserObject(CUgraph g, CUuserObject o, unsigned n) {
    (void)g, (void)o, (void)n;
    return CUDA_SUCCESS;
}
