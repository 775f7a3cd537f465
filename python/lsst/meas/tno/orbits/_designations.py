# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Designations of minor planets and comets."""

from __future__ import annotations

__all__ = ("designation_key", "full_name", "tidy_name", "unpack_designation")

import re

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

_LETTERS = "ABCDEFGHJKLMNOPQRSTUVWXYZ"
"""Second letters of provisional designations: there is no I."""

_EXTENDED_START = 15500
"""Order in its half month from which a designation is packed the longer way:
25 letters in 620 cycles come before.
"""

_PROVISIONAL = re.compile(r"(?:A\d{3}|\d{4}) [A-Z]{2}\d*|\d{4} (?:P-L|T-[123])")
"""1992 QB1, A904 OA or 2040 P-L."""

_NUMBERED = re.compile(r"(\d+)(?: .*)?")

_NUMBERED_COMET = re.compile(r"(\d+[PDI])(?:-([A-Z]{1,2}))?(?:/.*?(?:-([A-Z]{1,2}))?)?")
"""1P/Halley, and the fragments 51P/Harrington-A, also written 51P-A."""

_COMET = re.compile(r"([ACDIPX]/-?\d+ [A-Z]+\d*(?:-[A-Z]{1,2})?)(?: .*)?")
"""C/2002 T7 (LINEAR)."""


def unpack_designation(packed: str) -> str:
    """Return the designation that the Minor Planet Center packed.

    Parameters
    ----------
    packed
        Packed number (``02060``, ``A0345``, ``~000z``) or provisional
        designation (``J92Q01B``, ``PLS2040``, ``_QC0aEM``).

    Returns
    -------
    designation : `str`
        Designation (``2060``, ``1992 QB1``).

    Raises
    ------
    ValueError
        Raised if nothing is packed like this.

    Notes
    -----
    https://www.minorplanetcenter.net/iau/info/PackedDes.html
    """
    packed = packed.strip()
    if re.fullmatch(r"[0-9A-Za-z]\d{4}", packed):
        return str(_BASE62.index(packed[0]) * 10000 + int(packed[1:]))
    if re.fullmatch(r"~[0-9A-Za-z]{4}", packed):
        return str(620000 + _from_base62(packed[1:]))
    if match := re.fullmatch(r"(PL|T[123])S(\d{4})", packed):
        return f"{match[2]} {match[1][0]}-{match[1][1]}"
    if match := re.fullmatch(r"([I-L])(\d\d)([A-HJ-Y])([0-9A-Za-z]\d)([A-HJ-Z])", packed):
        century, year, half_month, cycle, letter = match.groups()
        number = _BASE62.index(cycle[0]) * 10 + int(cycle[1])
        return f"{int(century, 36)}{year} {half_month}{letter}{number or ''}"
    if match := re.fullmatch(r"_([0-9A-Za-z])([A-HJ-Y])([0-9A-Za-z]{4})", packed):
        cycle_number, letter_number = divmod(_EXTENDED_START + _from_base62(match[3]), len(_LETTERS))
        return f"{2000 + _BASE62.index(match[1])} {match[2]}{_LETTERS[letter_number]}{cycle_number}"
    raise ValueError(f"{packed!r} is not a packed designation.")


def _from_base62(text: str) -> int:
    value = 0
    for character in text:
        value = value * 62 + _BASE62.index(character)
    return value


def full_name(number: str, name: str) -> str:
    """Return the name of a numbered minor planet as JPL writes it.

    Parameters
    ----------
    number
        Its number.
    name
        Its name, or the provisional designation of one that has none.

    Returns
    -------
    full_name : `str`
        For example ``2060 Chiron`` or ``15788 (1993 SB)``.
    """
    return f"{number} ({name})" if _PROVISIONAL.fullmatch(name) else f"{number} {name}".strip()


def tidy_name(text: str) -> str:
    """Return a name without what differs between catalogs.

    Parameters
    ----------
    text
        Name like ``       (2020 MQ53)``, ``(2060) Chiron`` or
        ``(15788) 1993 SB``.

    Returns
    -------
    name : `str`
        ``2020 MQ53``, ``2060 Chiron``, ``15788 (1993 SB)``.
    """
    name = " ".join(text.split())
    if match := re.fullmatch(r"\((\d+)\)(?: (.*))?", name):
        return full_name(match[1], match[2] or "")
    match = re.fullmatch(r"\(([^()]+)\)", name)
    return match[1] if match else name


def designation_key(name: str) -> str:
    """Return what two names of one object have in common.

    Parameters
    ----------
    name
        Name as `tidy_name` returns it.

    Returns
    -------
    key : `str`
        Number of a numbered object (with the letter of a fragment), else the
        designation; the name itself if it has neither.
    """
    if _PROVISIONAL.fullmatch(name):
        return name
    if match := _NUMBERED.fullmatch(name) or _COMET.fullmatch(name):
        return match[1]
    if match := _NUMBERED_COMET.fullmatch(name):
        fragment = match[2] or match[3]
        return f"{match[1]}-{fragment}" if fragment else match[1]
    return name
