"""Formulas as they stand on a whiteboard: built with a few rules of arithmetic, written as text or as LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_SUM, _PRODUCT, _SIGNED, _ATOM = 0, 1, 2, 3  # how tightly an expression holds together

_GREEK = {
    "δ": r"\delta", "γ": r"\gamma", "β": r"\beta", "μ": r"\mu", "σ": r"\sigma", "ε": r"\varepsilon", "Σ": r"\sum",
    "Σⱼ": r"\sum_{j}", "Σᵢⱼ": r"\sum_{ij}",
}  # fmt: skip
_SIGNS = {sign: "\\" + sign for sign in "_%&#${}"} | {
    "\\": r"{\backslash}", "^": r"{\wedge}", "~": r"{\sim}",
}  # fmt: skip
_PLACES = {"ᵢ": "_{i}", "ⱼ": "_{j}"}
_KNOWN = {"tanh", "sin", "cos", "tan", "exp", "log", "max", "min"}


@dataclass(frozen=True)
class Expression:
    """A formula in both spellings. holds: how tightly."""

    text: str
    latex: str
    holds: int = _ATOM

    def tight(self, level: int) -> Expression:
        """In brackets, unless it holds together that tightly."""
        if self.holds >= level:
            return self
        return Expression(f"({self.text})", rf"\left({self.latex}\right)")

    @property
    def core(self) -> Expression:
        return self

    @property
    def factor(self) -> Scalar:
        return ONE


@dataclass(frozen=True)
class Ratio(Expression):
    """One over something."""

    under: Expression | None = None


@dataclass(frozen=True)
class Scalar:
    """value · times / per, where the two are products of sizes such as b·2."""

    value: float = 1.0
    times: tuple[str, ...] = ()
    per: tuple[str, ...] = ()

    def __mul__(self, other: Scalar) -> Scalar:
        times, per = [*self.times, *other.times], [*self.per, *other.per]
        for size in list(times):
            if size in per:
                times.remove(size)
                per.remove(size)
        return Scalar(self.value * other.value, tuple(times), tuple(per))

    @property
    def inverse(self) -> Scalar:
        return Scalar(1.0 / self.value, self.per, self.times)


ONE = Scalar()


@dataclass(frozen=True)
class Scaled(Expression):
    """A number times an expression; `inner` is None for the number alone."""

    number: Scalar = ONE
    inner: Expression | None = None

    @property
    def core(self) -> Expression:
        return self.inner or number(1.0)

    @property
    def factor(self) -> Scalar:
        return self.number


def _digits(value: float) -> str:
    text = f"{value:.6g}"
    return text.replace("-", "−")


def name(text: str) -> Expression:
    """t1, W1, δ2, δE/δW2: letters and a number."""
    return Expression(text, latex_name(text))


def latex_name(text: str) -> str:
    slope = re.fullmatch(r"δ(\w+)/δ(.+)", text)
    if slope:
        return rf"\frac{{\delta {latex_name(slope[1])}}}{{\delta {latex_name(slope[2])}}}"
    if text.endswith("(t−1)"):
        return f"{latex_name(text.removesuffix('(t−1)'))}^{{(t-1)}}"
    parts = re.fullmatch(r"(\D+?)(\d*)(?:_(\d+))?", text)
    if parts is None:
        return rf"\mathrm{{{_escaped(text)}}}"
    base, index, again = parts.groups()
    written = _GREEK.get(base, _escaped(base) if len(base) == 1 else rf"\mathrm{{{_escaped(base)}}}")
    return written + (f"_{{{index}}}" if index else "") + (f"^{{({again})}}" if again else "")


def _escaped(text: str) -> str:
    """Text in which LaTeX's own signs stand for themselves."""
    return "".join(_SIGNS.get(sign, r"\ " if sign.isspace() else sign) for sign in text)


def number(value: float, times: tuple[str, ...] = (), per: tuple[str, ...] = ()) -> Expression:
    return scaled(Scalar(value, times, per), None)


def scaled(by: Scalar, inner: Expression | None) -> Expression:
    """A number times an expression."""
    if inner is not None and isinstance(inner, Scaled):
        by, inner = by * inner.number, inner.inner
    if by == ONE and inner is not None:
        return inner
    sign, size = ("−", -by.value) if by.value < 0 else ("", by.value)
    top = [_digits(size)] if size != 1 or (not by.times and inner is None) else []
    top_latex = list(top) + [rf"\,{each}" if each.isdigit() else each for each in by.times]
    top += by.times
    if inner is not None:
        held = inner.tight(_PRODUCT)
        top.append(held.text)
        top_latex.append(held.latex)
    text, latex = "·".join(top), r" \, ".join(top_latex)
    if by.per:
        under = "·".join(by.per)
        text = f"{text} / {under if len(by.per) == 1 else f'({under})'}"
        latex = rf"\frac{{{latex}}}{{" + r" \cdot ".join(by.per) + "}"
    alone = not by.per and len(top) == 1 and not sign
    return Scaled(sign + text, sign.replace("−", "-") + latex, _ATOM if alone else _PRODUCT if not sign else _SUM, by, inner)


def is_zero(e: Expression) -> bool:
    return isinstance(e, Scaled) and e.inner is None and e.number.value == 0


def total(parts: Sequence[Expression]) -> Expression:
    """a + b − c"""
    parts = [part for part in parts if not is_zero(part)] or [number(0.0)]
    if len(parts) == 1:
        return parts[0]
    text, latex = parts[0].text, parts[0].latex
    for part in parts[1:]:
        if part.text.startswith("−"):
            text, latex = f"{text} − {part.text[1:]}", f"{latex} - {part.latex[1:]}"
        else:
            text, latex = f"{text} + {part.text}", f"{latex} + {part.latex}"
    return Expression(text, latex, _SUM)


def minus(a: Expression, b: Expression) -> Expression:
    if is_zero(a):
        return scaled(Scalar(-1.0), b)
    held = b.tight(_PRODUCT)
    return Expression(f"{a.text} − {held.text}", f"{a.latex} - {held.latex}", _SUM)


def times(a: Expression, b: Expression) -> Expression:
    """The elementwise product; numbers move to the front."""
    by = a.factor * b.factor
    inner = [part.inner if isinstance(part, Scaled) else part for part in (a, b)]
    left, right = (part for part in inner)
    if left is None or right is None:
        return scaled(by, left or right)
    if left.text == right.text:
        return scaled(by, power(left, 2.0))
    for part, other in ((left, right), (right, left)):
        if isinstance(part, Ratio) and part.under is not None:
            return scaled(by, over(other, part.under))
    p, q = left.tight(_PRODUCT), right.tight(_PRODUCT)
    return scaled(by, Expression(f"{p.text} ⊙ {q.text}", rf"{p.latex} \odot {q.latex}", _PRODUCT))


def over(a: Expression, b: Expression) -> Expression:
    if isinstance(b, Scaled) and b.inner is None:
        return scaled(b.number.inverse, a)
    if isinstance(a, Scaled) and a.inner is not None:
        return scaled(a.number, over(a.inner, b))
    p, q = a.tight(_PRODUCT), b.tight(_SIGNED)
    if a.text == "1":
        return Ratio(f"1 / {q.text}", rf"\frac{{1}}{{{b.latex}}}", _PRODUCT, b)
    return Expression(f"{p.text} / {q.text}", rf"\frac{{{a.latex}}}{{{b.latex}}}", _PRODUCT)


def dot(a: Expression, b: Expression) -> Expression:
    """The matrix product."""
    by = a.factor * b.factor
    p, q = a.core.tight(_SIGNED), b.core.tight(_SIGNED)
    return scaled(by, Expression(f"{p.text}·{q.text}", rf"{p.latex} \cdot {q.latex}", _PRODUCT))


def transposed(a: Expression) -> Expression:
    held = a.tight(_ATOM)
    return Expression(f"{held.text}ᵀ", f"{_base(held)}^{{\\top}}", _SIGNED)


def _base(a: Expression) -> str:
    """LaTeX that a superscript can stand on."""
    return f"{{{a.latex}}}" if a.latex.endswith("}") and "^" in a.latex and not a.latex.startswith(r"\left") else a.latex


_RAISED = str.maketrans("0123456789−", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def power(a: Expression, exponent: float) -> Expression:
    held = a.tight(_ATOM)
    if a.text.endswith(tuple("ᵀ⁰¹²³⁴⁵⁶⁷⁸⁹")):
        held = Expression(f"({a.text})", rf"\left({a.latex}\right)")
    digits = _digits(exponent)
    raised = digits.translate(_RAISED) if exponent == int(exponent) else f"^{digits}"
    return Expression(held.text + raised, f"{_base(held)}^{{{digits.replace('−', '-')}}}", _SIGNED)


def root(a: Expression) -> Expression:
    held = a.tight(_ATOM)
    return Expression(f"√{held.text}", rf"\sqrt{{{a.latex}}}", _SIGNED)


def call(function: str, *arguments: Expression) -> Expression:
    """f(a, b)"""
    inside = ", ".join(argument.text for argument in arguments)
    word, place = (function[:-1], _PLACES[function[-1]]) if function[-1] in _PLACES else (function, "")
    spelled = rf"\{word}" if word in _KNOWN else latex_name(word) if len(word) == 1 else rf"\mathrm{{{_escaped(word)}}}"
    spelled = spelled.replace("′", "'") + place
    return Expression(f"{function}({inside})", rf"{spelled}\left({', '.join(a.latex for a in arguments)}\right)")


def summed(sign: str, a: Expression) -> Expression:
    """Σ a; a number before it stays before it."""
    held = a.core.tight(_SIGNED)
    return scaled(a.factor, Expression(f"{sign} {held.text}", f"{_GREEK[sign]} {held.latex}", _PRODUCT))


def compared(a: Expression, sign: str, b: Expression) -> Expression:
    latex = {"≥": r"\geq"}.get(sign, sign)
    return Expression(f"({a.text} {sign} {b.text})", rf"\left({a.latex} {latex} {b.latex}\right)")


def indexed(a: Expression, key: str) -> Expression:
    held = a.tight(_ATOM)
    base = f"{{{held.latex}}}" if "_" in held.latex else held.latex
    return Expression(f"{held.text}[{key}]", f"{base}_{{[{key}]}}")


def beside(parts: Sequence[Expression]) -> Expression:
    """[a, b]: one after the other."""
    return Expression(
        "[" + ", ".join(part.text for part in parts) + "]", r"\left[" + r",\; ".join(part.latex for part in parts) + r"\right]"
    )
