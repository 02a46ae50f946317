"""What the columns of a map are called, what that says of them, and which of them to take."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from foreglow.errors import MapError
from foreglow.maps.conventions import warn_assumed
from foreglow.maps.table import Table

NOISE_KINDS = ("rms", "variance", "inverse variance", "hits")

# words of a column's name, once blanks, hyphens and dots are underscores
_WORDS = {
    "hits": "HITS?|NHITS?|NOBS|HITCOUNTS?|HITMAP|COUNTS?|NSAMPLES?",
    "inverse variance": "WEI|WEIGHTS?|WGTS?|IVAR|ICOV",
    "variance": "VARIANCE|VAR|NVAR|COVARIANCE|COVAR|COV|SIGMA2|SIGMASQ|RMS2|RMSSQ",
    "rms": "RMS|SIGMA|ERRORS?|ERR|STDDEV|STDEV|STD|UNCERTAINTY|UNC|NOISE",
}
_LONG_WORDS = {
    r"INV(ERSE)?_?(VAR(IANCE)?|COV(ARIANCE)?)": "IVAR",
    r"(?<![A-Z])N_(OBS|HITS?|SAMPLES?)|HIT_COUNTS?|HIT_MAP": "HITS",
    r"(SIGMA|RMS)_?(SQUARED|SQ)": "SIGMA2",
}
_STOKES = "[IQUVT]{1,2}"
_OF_INTENSITY = {"TEMPERATURE", "INTENSITY", "DUST"}
_SAYS_NO_MORE = {"STOKES", "POLARISATION", "POLARIZATION", "POL", "MAP", "ML", "FULL", "MEAN"}
# of polarised intensity, fraction and angle, which stand in place of Q and U in some files
_POLAR = (
    "P|PI|PSI|CHI|PA|POLI|PMAP|PINT|POLINT|PFRAC|POLA|POLANG|PANG|ANG|ANGLE|ANGLES|"
    "POLARI[SZ]ED|EVPA"
)
_FROM_POLAR = (
    "if these are polarised intensity and angle, make Q = P cos(2 psi) and U = P sin(2 psi) of "
    "them, with psi from south towards east (COSMO; for psi from north towards east, as the IAU "
    "counts it, U = -P sin(2 psi))"
)
_SAYS_NOTHING = r"_*|_*(COLUMN|COL|FIELD|UNKNOWN|C)_*\d*"


@dataclass(frozen=True)
class Meaning:
    """What the name of a column says.

    Attributes
    ----------
    stokes : str
        "I", "Q", "U" or "V"; of two different ones, such as "QU", both; "" if none is named.
    kind : str
        "signal"; one of `NOISE_KINDS`; "matrix" for QQ, UU and so on alone, which some fill with
        covariances and others with hits; "silent" of a name that says nothing; else "".
    """

    stokes: str
    kind: str


def meaning_of(name: str) -> Meaning:
    """What the name of a column says.

    Examples
    --------
    >>> meaning_of("Q-POLARISATION"), meaning_of("UU_COV")
    (Meaning(stokes='Q', kind='signal'), Meaning(stokes='U', kind='variance'))
    >>> meaning_of("WEI_Q"), meaning_of("COLUMN_2")
    (Meaning(stokes='Q', kind='inverse variance'), Meaning(stokes='', kind='silent'))
    """
    text = re.sub(r"[-\s.]", "_", name.strip().upper())
    if re.fullmatch(_SAYS_NOTHING, text):
        return Meaning("", "silent")
    for long, short in _LONG_WORDS.items():
        text = re.sub(long, short, text)
    kinds, letters, words = [], [], []
    for word in filter(None, text.split("_")):
        kind, stokes, is_word = _read_word(word)
        kinds += [kind] if kind else []
        letters += [stokes] if stokes else []
        words += [word] if is_word else []
    unknown = [word for word in words if word not in _OF_INTENSITY | _SAYS_NO_MORE]
    stokes = letters[0] if letters else "I" if _OF_INTENSITY & set(words) else ""
    kind = next((kind for kind in _WORDS if kind in kinds), "")
    if not kind and stokes and not unknown and len(letters) < 2:
        kind = "matrix" if len(stokes) == 2 else "signal"
    if not kind:
        return Meaning("", "")
    stokes = stokes.replace("T", "I")
    return Meaning(stokes[0] if len(set(stokes)) == 1 else stokes, kind)


def _read_word(word: str) -> tuple[str, str, bool]:
    """Kind and Stokes letters in one word of a name, and whether it is another word."""
    if re.fullmatch(_STOKES, word):
        return "", word, False
    glued = re.fullmatch(rf"(STOKES)?({_STOKES})(STOKES)?", word)
    if glued is not None:
        return "", glued[2], False
    for kind, spellings in _WORDS.items():
        found = re.fullmatch(rf"({_STOKES})?({spellings})({_STOKES})?", word)
        if found is not None:
            return kind, found[1] or found[3] or "", False
    return "", "", True


def meanings(table: Table) -> dict[int, Meaning]:
    """What the columns that are maps are called, by their numbers."""
    return {i: meaning_of(table.columns[i].name or "") for i in table.sky_columns}


def find_stokes(table: Table) -> list[int]:
    """Numbers of the columns Q and U: by name, or by place where no name says anything.

    Raises
    ------
    MapError
        If the names say something else.
    """
    named = meanings(table)
    q, u = (_signals(named, letter) for letter in "QU")
    if len(q) == len(u) == 1:
        return [q[0], u[0]]
    if len(named) in (2, 3) and _all_silent(named):
        last = list(named)[-2:]
        _say_by_place(table, last, "Q and U")
        return last
    if len(q) + len(u) == 1:
        advice = "if the other lies in a file of its own, give both, Q first, as 'Q.fits,U.fits'"
    elif any(_is_polar(table, number) for number in named):
        advice = _FROM_POLAR
    elif len(named) == 1:
        advice = "it holds one map; give a file of Q and U, or two, Q first, as 'Q.fits,U.fits'"
    else:
        advice = f"name the two to take, {table.path.name}[Q_COLUMN,U_COLUMN]"
    raise MapError(
        f"{table.path}: expected one column Q_STOKES and one U_STOKES (or Q_POLARISATION, Q, ...), "
        f"got columns {table.listing}; {advice}"
    )


def find_one_stokes(table: Table, letter: str) -> int:
    """Number of the column of Q, or of U, in a file of that alone."""
    named = meanings(table)
    found = _signals(named, letter)
    if len(found) == 1:
        return found[0]
    only = next(iter(named), 0)
    says_nothing_else = named[only].kind in ("silent", "") or named[only] == Meaning("I", "signal")
    if len(named) == 1 and says_nothing_else and not _is_polar(table, only):
        return only  # the user has said which file it is
    raise MapError(
        f"{table.path}: expected one column {letter}_STOKES (or {letter}_POLARISATION, {letter}, "
        f"...) in the file given for {letter}, got columns {table.listing}; give the file of Q "
        f"first, then that of U, or name the column, {table.path.name}[COLUMN]"
    )


def find_intensity(table: Table) -> int:
    """Number of the column of intensity: by name, or by place where no name says anything.

    Raises
    ------
    MapError
        If the names say something else.
    """
    named = meanings(table)
    found = _signals(named, "I")
    if len(found) == 1:
        return found[0]
    first = next(iter(named), 0)
    if not found and len(named) == 1 and named[first].kind in ("silent", ""):
        return first
    if len(named) == 3 and _all_silent(named):
        _say_by_place(table, [first], "intensity")
        return first
    raise MapError(
        f"{table.path}: expected one column I_STOKES (or TEMPERATURE, I, ...), got columns "
        f"{table.listing}; name the one to take, {table.path.name}[COLUMN]"
    )


def find_noise(table: Table) -> list[int]:
    """Numbers of the columns that hold the noise of Q and of U, perhaps one for both.

    Raises
    ------
    MapError
        If there is none, or several among which to choose.
    """
    named = meanings(table)
    noise = {i: m for i, m in named.items() if m.kind in (*NOISE_KINDS, "matrix")}
    groups = [g for kind in (*NOISE_KINDS, "matrix") if (g := _pair(noise, kind))]
    if not noise:
        groups = [g for kind in ("signal", "silent", "") if (g := _pair(named, kind))]
    told = [g for g in groups if named[g[0]].kind != "hits"] or groups
    if len(told) == 1:
        return told[0]
    if not noise and len(named) == 2 and _all_silent(named):
        _say_by_place(table, list(named), "noise of Q and of U")
        return list(named)
    file = table.path.name
    raise MapError(
        f"{table.path}: expected the noise of Q and U, such as Q_RMS and U_RMS or QQ_COV and "
        f"UU_COV, got columns {table.listing}; name what to take, {file}[Q_COLUMN,U_COLUMN] or "
        f"{file}[COLUMN] for both"
    )


def find_covariance(table: Table) -> list[int]:
    """Numbers of the columns QQ, QU and UU of a covariance or its inverse.

    Raises
    ------
    MapError
        If there are none, or several of one.
    """
    kinds = ("variance", "inverse variance", "matrix")
    mine = [i for i, m in meanings(table).items() if m.kind in kinds]
    called = {i: stokes_of_product(table.columns[i].name or "") for i in mine}
    found = [[i for i in mine if called[i] == stokes] for stokes in ("Q", "QU", "U")]
    if all(len(one) == 1 for one in found):
        return [one[0] for one in found]
    raise MapError(
        f"{table.path}: expected columns of QQ, QU and UU, such as QQ_COV, QU_COV and UU_COV, got "
        f"columns {table.listing}; name them in this order, "
        f"{table.path.name}[QQ_COLUMN,QU_COLUMN,UU_COLUMN]"
    )


def stokes_of_product(name: str) -> str:
    """What the name of a column of a covariance says: "Q" of QQ, "U" of UU, "QU" of QU and UQ."""
    return "".join(sorted(set(meaning_of(name).stokes)))


def find_one_noise(table: Table, letter: str) -> int:
    """Number of the column of noise in a file of that of Q, or of U, alone."""
    named = meanings(table)
    noise = [i for i, m in named.items() if m.kind in NOISE_KINDS and m.stokes in (letter, "")]
    found = noise or [i for i, m in named.items() if m.stokes in (letter, "") or len(named) == 1]
    if len(found) == 1 and named[found[0]].stokes in (letter, "", "I"):
        return found[0]
    raise MapError(
        f"{table.path}: expected one column with the noise of {letter}, got columns "
        f"{table.listing}; name it, {table.path.name}[COLUMN]"
    )


def find_named(table: Table, column: str) -> int:
    """Number of a column by its own name."""
    wanted = column.strip().upper()
    hits = [i for i in table.sky_columns if (table.columns[i].name or "").upper() == wanted]
    if len(hits) == 1:
        return hits[0]
    raise MapError(
        f"{table.path}: expected one column {column}, got columns {table.listing}; name one of them"
    )


def find_named_pair(table: Table, names: Sequence[str]) -> list[int]:
    """Numbers of columns of Q and U by their own names.

    Raises
    ------
    MapError
        If they are not two, or one of them is called the other's name, or that of a noise.
    """
    if len(names) != 2:
        raise MapError(
            f"{table.path}: expected two columns, [Q_COLUMN,U_COLUMN], got {', '.join(names)}; "
            "name both"
        )
    numbers = [find_named(table, name) for name in names]
    for number, name, letter in zip(numbers, names, "QU", strict=True):
        meaning = meanings(table)[number]
        if _is_polar(table, number):
            raise MapError(
                f"{table.path}: expected the column of {letter}, got {name}, whose name says "
                f"something else; {_FROM_POLAR}"
            )
        if meaning.stokes not in ("", letter) or meaning.kind in NOISE_KINDS:
            raise MapError(
                f"{table.path}: expected the column of {letter}, got {name}, whose name says "
                f"something else; name them in this order, [Q_COLUMN,U_COLUMN]"
            )
    return numbers


def _is_polar(table: Table, number: int) -> bool:
    """Whether a column is called a polarised intensity, a fraction or an angle."""
    name = table.columns[number].name or ""
    words = re.split(r"[-_\s.]+", name.strip().upper())
    return not {"Q", "U"} & set(words) and any(re.fullmatch(_POLAR, word) for word in words)


def _signals(named: dict[int, Meaning], letter: str) -> list[int]:
    return [i for i, m in named.items() if (m.kind, m.stokes) == ("signal", letter)]


def _pair(named: dict[int, Meaning], kind: str) -> list[int]:
    """Columns of a kind for Q and U, or one for both; none where that is not clear."""
    of_kind = {i: m.stokes for i, m in named.items() if m.kind == kind}
    q, u, both = ([i for i, s in of_kind.items() if s == letter] for letter in ("Q", "U", ""))
    if len(q) == len(u) == 1 and not both:
        return [q[0], u[0]]
    known = kind in (*NOISE_KINDS, "matrix") or len(named) == 1
    if len(both) == 1 and not q and not u and known:
        return both * 2
    if kind == "signal" and len(named) == 1 and list(of_kind.values()) == ["I"]:
        return list(of_kind) * 2  # healpy calls every single map TEMPERATURE
    return []


def _all_silent(named: dict[int, Meaning]) -> bool:
    return all(m.kind == "silent" for m in named.values())


def _say_by_place(table: Table, numbers: Sequence[int], what: str) -> None:
    names = " and ".join(table.columns[i].name or f"column {i + 1}" for i in numbers)
    warn_assumed(
        f"{table.path}: its columns have no names that say what they are; {names} taken as {what}, "
        "by their places"
    )
