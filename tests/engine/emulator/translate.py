"""PTX, what NVVM makes of a kernel, as C that does the same; `ptx.h` has the instructions."""

import re

_C_TYPES = {
    **{f"{kind}{size}": f"u{size}" for kind in "bus" for size in (8, 16, 32, 64)},
    **{"f32": "float", "f64": "double", "pred": "pred"},
}
_SPECIAL = re.compile(r"%(tid|ntid|ctaid|nctaid)\.([xyz])")
_FUNCTION = re.compile(
    r"(?:\.(?:visible|weak|extern|common)\s+)*\.(?P<kind>entry|func)\s*"
    r"(?:\((?P<result>[^)]*)\)\s*)?(?P<name>[\w$]+)\s*\((?P<parameters>[^)]*)\)\s*(?P<end>[{;])"
)
_VARIABLE = re.compile(
    r"(?:\.(?:visible|weak|extern|common)\s+)*\.(?P<space>shared|global|const)\s+"
    r"(?:\.align\s+(?P<align>\d+)\s+)?\.(?P<type>\w+)\s+(?P<name>[\w$]+)"
    r"(?:\[(?P<size>\d+)\])?(?:\s*=\s*(?P<value>\{[^}]*\}|[^;]*))?;"
)
_DECLARED = re.compile(r"\.param\s+(?:\.align\s+\d+\s+)?\.(\w+)\s+([\w$]+)(?:\[(\d+)\])?")
_HEADER = re.compile(r"\s*\.version [\d.]+\s*\.target \w+\s*\.address_size 64\s*")
_PART = re.compile(
    r"\s*(?:(?P<brace>[{}])|(?P<label>[\w$]+):|"
    r"(?P<statement>[^;{}\s](?:[^;{}]|\{[^{}]*\})*);)"
)
_GUARD = re.compile(r"@(!?)(%?[\w]+)\s+")
_ADDRESS = re.compile(r"\[\s*([%\w$]+)\s*(?:\+\s*(-?\d+))?\s*\]")
_SPACES = ("global", "shared", "local", "param", "const")


class UnknownCodeError(Exception):
    """PTX that has no translation."""


def translated(ptx: str) -> str:
    """A C file with all functions of the code, and a table of its kernels."""
    code = re.sub(r"//[^\n]*", "", ptx)
    functions, kernels, rest, at = [], [], "", 0
    while found := _FUNCTION.search(code, at):
        rest += code[at : found.start()]
        at = found.end()
        if found["end"] == "{":
            end = _closing(code, at)
            functions.append((found, code[at : end - 1]))
            at = end
    rest += code[at:]
    shared, offset, lines = {}, 0, ['#include "ptx.h"']  # places within a block's memory
    for found in _VARIABLE.finditer(rest):
        kind, size = _C_TYPES[found["type"]], int(found["size"] or 1)
        align = int(found["align"] or 8)
        if found["space"] == "shared":
            offset = -(-offset // align) * align
            shared[found["name"]] = offset
            offset += size * int(re.sub(r"\D", "", found["type"])) // 8
        else:
            value = f" = {found['value']}" if found["value"] else ""
            lines.append(
                f"static {kind} {found['name']}[{size}]"
                f" __attribute__((unused, aligned({align}))){value};"
            )
    if not _HEADER.fullmatch(_VARIABLE.sub("", rest)):
        raise UnknownCodeError(_VARIABLE.sub("", rest).strip()[:400])
    bodies = []
    for found, body in functions:
        function = _Function(found, shared, len(kernels))
        lines.append(f"static {function.head};")
        bodies += [*function.begin(), *function.translate(body), "}"]
        if found["kind"] == "entry":
            kernels.append(function)
    lines += bodies
    for number, kernel in enumerate(kernels):
        sizes = ", ".join(str(size) for size in kernel.sizes)
        lines.append(f"static const u32 sizes_{number}[] = {{{sizes or 0}}};")
    lines.append("const Kernel kernels[] = {")
    for number, kernel in enumerate(kernels):
        has_barrier = int("bar." in code or "barrier." in code)
        lines.append(
            f'{{"{kernel.name}", kernel_{number}, {len(kernel.sizes)}, {offset}, {has_barrier},'
            f" sizes_{number}}},"
        )
    return "\n".join([*lines, "{0}};", ""])


def _closing(code: str, at: int) -> int:
    depth = 1
    while depth:
        found = re.compile(r"[{}]").search(code, at)
        depth += 1 if found[0] == "{" else -1
        at = found.end()
    return at


class _Function:
    """One function; a parameter of a kernel stays where the driver was given it."""

    def __init__(self, found, shared, number):
        self.name, self._is_kernel = found["name"], found["kind"] == "entry"
        self._shared, self._line, self._vectors = shared, 0, 0
        parameters = [_declared(each) for each in found["parameters"].split(",") if each.strip()]
        self.sizes = [size for _, size, _ in parameters]
        self._parameters = {name: place for place, (name, _, _) in enumerate(parameters)}
        self._result, self._kinds = None, {}
        result = "void"
        if self._is_kernel:
            self.head = f"void kernel_{number}(const Thread *t)"
            return
        if found["result"]:
            self._result, _, result = _declared(found["result"])
        taken = "".join(f", {kind} {name}" for name, _, kind in parameters)
        self.head = f"{result} {self.name}(const Thread *t{taken})"

    def begin(self):
        yield f"static {self.head} {{"
        if self._result:
            yield f"u64 {self._result};"

    def translate(self, body):
        at = 0
        while body[at:].strip():
            found = _PART.match(body, at)
            if not found:
                raise UnknownCodeError(body[at : at + 200].strip())
            at = found.end()
            self._line += 1
            if found["brace"]:
                yield found["brace"]
            elif found["label"]:
                yield f"{found['label']}:;"
            else:
                try:
                    yield self._statement(" ".join(found["statement"].split()))
                except (KeyError, IndexError, ValueError) as error:
                    raise UnknownCodeError(found["statement"]) from error

    def _statement(self, text):
        if text.startswith("."):
            return self._declaration(text)
        if guard := _GUARD.match(text):
            then = self._statement(text[guard.end() :])
            return f"if ({guard[1]}{self._value(guard[2])}) {{ {then} }}"
        opcode, _, rest = text.partition(" ")
        base, *how = opcode.split(".")
        if base == "ret" and not how:
            return f"return {self._result};" if self._result else "return;"
        if base == "bra" and how in ([], ["uni"]):
            return f"goto {rest};"
        if opcode in ("bar.sync", "barrier.sync") and rest == "0":
            return f"t->meet(0, {self._line});"
        if opcode == "bar.warp.sync":
            return f"t->meet({self._value(rest)}, {self._line});"
        if base == "call" and how in ([], ["uni"]):
            return _call(rest)
        operands = [each.strip() for each in re.split(r",(?![^{]*\})", rest)]
        if base in ("ld", "st"):
            return self._move(base, how, operands)
        if base == "cvta" and how[-1] == "u64":
            to, value = operands
            return f"{self._value(to)} = {self._value(value)};"
        if opcode in ("mov.b64", "mov.b32"):
            return self._bits(int(opcode[-2:]), *operands)
        for operand in operands:
            self._check(base, how, operand)
        first, *others = (self._value(each) for each in operands)
        return f"{first} = {opcode.replace('.', '_')}({', '.join(others)});"

    def _declaration(self, text):
        words = text.split()
        if words[0] == ".reg":
            kind, name = words[1][1:], words[2]
            name, _, count = name.partition("<")
            names = [f"{name}{i}" for i in range(int(count[:-1]))] if count else [name]
            self._kinds |= dict.fromkeys(names, kind)
            return f"{_C_TYPES[kind]} {', '.join(map(_c_name, names))};"
        if words[0] == ".param":
            name, _, kind = _declared(text)
            return f"{kind} {name};"
        if words[0] == ".local":
            found = re.fullmatch(r"\.local \.align (\d+) \.b8 ([\w$]+)\[(\d+)\]", text)
            return f"u8 {found[2]}[{found[3]}] __attribute__((aligned({found[1]})));"
        if words[0] == ".pragma":
            return ""
        raise UnknownCodeError(text)

    def _value(self, operand):
        if special := _SPECIAL.fullmatch(operand):
            return f"t->{special[1]}[{'xyz'.index(special[2])}]"
        if operand in self._kinds:
            return _c_name(operand)
        if operand in self._shared:
            return f"((u64)t->shared + {self._shared[operand]})"
        if re.fullmatch(r"0[fF][0-9A-F]{8}", operand):
            return f"f32_of(0x{operand[2:]})"
        if re.fullmatch(r"0[dD][0-9A-F]{16}", operand):
            return f"f64_of(0x{operand[2:]})"
        if re.fullmatch(r"-?\d+|0x[0-9a-fA-F]+", operand):
            return f"0x{int(operand, 0) % 2**64:x}"
        if re.fullmatch(r"[a-zA-Z_$][\w$]*", operand):
            return f"((u64){operand})"
        raise UnknownCodeError(operand)

    def _check(self, base, how, operand):
        """Whether a register is one of floats: C would convert without a word."""
        kind = self._kinds.get(operand, "pred")
        if base != "cvt" and kind != "pred" and (kind[0] == "f") != (how[-1][0] == "f"):
            raise UnknownCodeError(f"{base} {how} of {operand}, a {kind}")
        if kind[0] == "f" and kind not in how:
            raise UnknownCodeError(f"{base} {how} of {operand}, a {kind}")

    def _move(self, base, how, operands):
        """Loads and stores, also of two or four at once."""
        how = [word for word in how if word not in ("volatile", "nc")]
        space = how[0] if how[0] in _SPACES else "generic"
        words = [word for word in how if word not in _SPACES]
        *count, kind = words
        width = {(): 1, ("v2",): 2, ("v4",): 4}[tuple(count)]
        place, values = operands if base == "st" else operands[::-1]
        values = values.strip("{}").replace(" ", "").split(",")
        assert len(values) == width
        size = int(kind[1:]) // 8
        address = self._address(place, space, size * width)
        lines = []
        for i, value in enumerate(values):
            own = self._kinds.get(value)
            own_type = _C_TYPES[own] if own else _C_TYPES[kind]
            # A signed number is widened with its sign.
            read = f"s{kind[1:]}" if kind[0] == "s" else _C_TYPES[kind]
            if own and own[0] == "f":
                if int(own[1:]) != int(kind[1:]) or kind[0] in "us":
                    raise UnknownCodeError(f"{base} {how} of {value}, a {own}")
                read = own_type
            elif own and kind[0] == "f":
                raise UnknownCodeError(f"{base} {how} of {value}, a {own}")
            spot = f"({read} *)({address} + {i * size})"
            name = self._value(value)
            if base == "ld":
                wide = f"s{own[1:]}" if read[0] == "s" else own_type
                lines.append(f"{name} = ({wide})*{spot};")
            else:
                lines.append(f"*{spot} = {name};")
        return " ".join(lines)

    def _address(self, place, space, size):
        name, offset = _ADDRESS.fullmatch(place).groups()
        offset = int(offset or 0)
        if space == "param":
            if self._is_kernel and name in self._parameters:
                return f"((u64)t->params[{self._parameters[name]}] + {offset})"
            return f"((u64)&{name} + {offset})"
        base = self._value(name)
        return f"aligned(t, {base} + {offset % 2**64:#x}, {size})"

    def _bits(self, size, to, value):
        """Moves between registers of different kinds, and halves of them."""
        half = size // 2
        if to.startswith("{"):
            low, high = (self._value(each.strip()) for each in to.strip("{}").split(","))
            return f"{{ u{size} x = {self._raw(value)}; {low} = x; {high} = x >> {half}; }}"
        if value.startswith("{"):
            low, high = (self._value(each.strip()) for each in value.strip("{}").split(","))
            whole = f"((u{size})(u{half}){high} << {half} | (u{half}){low})"
        else:
            whole = self._raw(value)
        if self._kinds[to][0] == "f":
            return f"{self._value(to)} = {self._kinds[to]}_of({whole});"
        return f"{self._value(to)} = {whole};"

    def _raw(self, value):
        kind = self._kinds.get(value, "b")
        return f"bits{kind[1:]}({self._value(value)})" if kind[0] == "f" else self._value(value)


def _c_name(register):
    return register.replace("%", "r_")


def _declared(text):
    """Name, bytes and C type of a parameter."""
    kind, name, count = _DECLARED.search(text).groups()
    if count:
        raise UnknownCodeError(text)
    return name, int(kind[1:]) // 8, _C_TYPES[kind].replace("float", "u32").replace("double", "u64")


def _call(text):
    found = re.fullmatch(r"(?:\((\S+)\), )?([\w$]+)(?:, \(([^)]*)\))?", text)
    result, name, taken = found.groups()
    given = "".join(f", {each.strip()}" for each in (taken or "").split(",") if each.strip())
    return f"{f'{result} = ' if result else ''}{name}(t{given});"
