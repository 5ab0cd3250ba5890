"""The library: every policy and the table of codes, read once and checked line by line."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import importlib.resources
import itertools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from . import edit_store, terms
from .codes import KINDS, Code, CodeTable
from .edits import Edits, Pair, PairEdit, PairTable, UnitEdit, UnitTable
from .policy import Citation, Policy, Term
from .terms import Located, Say, Shape
from .visit import Setting


class UnknownPolicy(Exception):
    """There is no policy of this id; the message names those that there are."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """What is wrong in a file, and where."""

    file: str
    line: int
    says: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.says}"


class MistakesFound(Exception):
    """Files that cannot be used, with every mistake in them."""

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(str(mistake) for mistake in self.mistakes))


@dataclass(frozen=True, slots=True)
class Library:
    """Policies by id, and the codes that they speak of."""

    policies: Mapping[str, Policy]
    codes: CodeTable
    edits: Edits
    hashes: Mapping[str, str]

    @staticmethod
    def load(site_folder: Path | None = None, edits_folder: Path | None = None) -> Library:
        """The shipped library, a site's own policies over it, and the edits that it imported.

        Raises ``MistakesFound`` with every mistake in the site's files, and ``StoreDamaged`` where an
        imported quarter cannot be read.
        """
        shipped = _shipped()
        if site_folder is None and edits_folder is None:
            return shipped
        policies, edits = shipped.policies, shipped.edits
        if site_folder is not None:
            own, mistakes = _read_policies(_yaml_files(site_folder), shipped.policies, site=True)
            if mistakes:
                raise MistakesFound(mistakes)
            policies = {**shipped.policies, **own}
        if edits_folder is not None:
            pair_tables, unit_tables = edit_store.tables(edits_folder, (code.code for code in shipped.codes))
            shipped_pairs = itertools.chain.from_iterable(edits.pair_tables.values())
            shipped_units = itertools.chain.from_iterable(edits.unit_tables.values())
            edits = Edits.of((*shipped_pairs, *pair_tables), (*shipped_units, *unit_tables))
        return _library(policies, shipped.codes, edits)

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of all policies, in order of the alphabet."""
        return tuple(sorted(self.policies))

    def policy(self, policy_id: str) -> Policy:
        """The policy of this id. Raises ``UnknownPolicy``."""
        if policy_id not in self.policies:
            raise UnknownPolicy(f"No policy '{policy_id}'; known are {', '.join(self.ids)}.")
        return self.policies[policy_id]

    def hash_of(self, policy_id: str) -> str:
        """A SHA-256 over every value that a suggestion under this policy can rest on."""
        self.policy(policy_id)
        return self.hashes[policy_id]


def check_folder(folder: Path) -> tuple[Mistake, ...]:
    """Every mistake in a site's policy files; none where they can be used."""
    return _read_policies(_yaml_files(folder), _shipped().policies, site=True)[1]


@functools.cache
def _shipped() -> Library:
    here = importlib.resources.files(__package__)
    files = [
        (file.name, file.read_bytes())
        for file in sorted((here / "policies").iterdir(), key=lambda file: file.name)
        if file.name.endswith(".yaml")
    ]
    policies, mistakes = _read_policies(files, {}, site=False)
    codes, in_codes = _read_codes("codes.yaml", (here / "codes.yaml").read_bytes())
    edits, in_edits = _read_edits("edits.yaml", (here / "edits.yaml").read_bytes())
    if mistakes or in_codes or in_edits:
        raise MistakesFound((*mistakes, *in_codes, *in_edits))
    return _library(policies, codes, edits)


def _library(policies: Mapping[str, Policy], codes: CodeTable, edits: Edits) -> Library:
    tables = hashlib.sha256(_canonical([list(codes), edits])).hexdigest()
    hashes = {
        policy.id: hashlib.sha256(_canonical([policy, tables])).hexdigest() for policy in policies.values()
    }
    return Library(policies, codes, edits, hashes)


def _canonical(value: Any) -> bytes:
    """The same bytes for the same values, in whatever order a set or mapping holds them."""
    return json.dumps(value, sort_keys=True, default=_plain).encode()


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: _keyed(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, frozenset):
        return sorted(sorted(item) if isinstance(item, frozenset) else item for item in value)
    return str(value)


def _keyed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {" ".join(sorted(key)) if isinstance(key, frozenset) else key: at for key, at in value.items()}
    return value


def _yaml_files(folder: Path) -> list[tuple[str, bytes]]:
    return [
        (str(path), path.read_bytes())
        for path in sorted(folder.iterdir())
        if path.suffix in {".yaml", ".yml"} and path.is_file()
    ]


# ---- one file ------------------------------------------------------------------------------------


class _File:
    """A file being read: its mistakes, each at its line."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.mistakes: list[Mistake] = []

    def say(self, line: int, says: str) -> None:
        self.mistakes.append(Mistake(self.name, line, f"{says}."))

    def read(self, content: bytes) -> Located | None:
        """The document with its lines, or ``None`` where it is no YAML."""
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            self.say(content.count(b"\n", 0, error.start) + 1, "not UTF-8")
            return None
        try:
            node = YAML(typ="safe", pure=True).compose(text)
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self.say(mark.line + 1 if mark else 1, f"not YAML: {error.problem or error.context}")
            return None
        except YAMLError as error:
            self.say(1, f"not YAML: {error}")
            return None
        if node is None:
            self.say(1, "the file is empty")
            return None
        return self._located(node)

    def _located(self, node: Node) -> Located:
        line = node.start_mark.line + 1
        if isinstance(node, MappingNode):
            return Located(self._mapping(node), line)
        if isinstance(node, SequenceNode):
            return Located(tuple(self._located(item) for item in node.value), line)
        return Located(_scalar(node), line)

    def _mapping(self, node: MappingNode) -> Mapping[Located, Located]:
        entries: dict[Located, Located] = {}
        first_at: dict[Any, int] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                self.say(key_node.start_mark.line + 1, "a key must be a single word, code or date")
                continue
            key = self._located(key_node)
            if key.value in first_at:
                self.say(key.line, f"'{key.value}' is given twice; first on line {first_at[key.value]}")
                continue
            first_at[key.value] = key.line
            entries[key] = self._located(value_node)
        return entries


_READERS: Mapping[str, Callable[[str], str | int | bool | date | Decimal]] = {
    "bool": lambda value: value.lower() == "true",
    "int": int,
    "float": Decimal,  # money is never a float
    "timestamp": date.fromisoformat,
}


def _scalar(node: Node) -> str | int | bool | date | Decimal | None:
    """The value; what looks like a date or number and is none stays a text, which its shape refuses."""
    kind = str(node.tag).rsplit(":", 1)[-1]
    if kind == "null":
        return None
    try:
        return _READERS.get(kind, str)(str(node.value))
    except (ValueError, InvalidOperation):
        return str(node.value)


# ---- sources -------------------------------------------------------------------------------------


def _link(at: Located, say: Say) -> str | None:
    if isinstance(at.value, str) and at.value.startswith(("https://", "http://")):
        return at.value
    say(at.line, f"{terms.shown(at)} is not a link")
    return None


_citation = terms.record(
    {
        "title": terms.text,
        "section": terms.text,
        "url": _link,
        "read_on": terms.day,
        "verified": terms.truth,
    }
)


def _sources(at: Located, file: _File) -> dict[str, Citation]:
    known: dict[str, Citation] = {}
    for key, entry in _entries(at, file).items():
        before = len(file.mistakes)
        fields = _citation(entry, file.say)
        # A broken source stays known, so that its values are not blamed as well.
        known[str(key.value)] = Citation(**fields) if len(file.mistakes) == before else _BROKEN
    return known


_BROKEN = Citation("", "", "", date.min, verified=False)


def _entries(at: Located, file: _File) -> Mapping[Located, Located]:
    if isinstance(at.value, Mapping):
        return at.value
    file.say(at.line, f"{terms.shown(at)} is not a mapping")
    return {}


# ---- policies ------------------------------------------------------------------------------------


def _line(mistake: Mistake) -> int:
    return mistake.line


@dataclass(frozen=True, slots=True)
class _Draft:
    """A policy as its file has it, before what it follows is joined in."""

    policy: Policy
    like: Located | None
    file: _File


def _read_policies(
    files: Iterable[tuple[str, bytes]], known: Mapping[str, Policy], *, site: bool
) -> tuple[dict[str, Policy], tuple[Mistake, ...]]:
    drafts: dict[str, _Draft] = {}
    read: list[_File] = []
    for name, content in files:
        file = _File(name)
        read.append(file)
        document = file.read(content)
        draft = None if document is None else _draft(document, file, site=site)
        if draft is None:
            continue
        if draft.policy.id in drafts:
            file.say(1, f"the policy '{draft.policy.id}' stands in {drafts[draft.policy.id].file.name} too")
            continue
        drafts[draft.policy.id] = draft
    own_bases = {draft.policy.id for draft in drafts.values() if draft.like is not None}
    policies = {draft.policy.id: _joined(draft, drafts, known, own_bases) for draft in drafts.values()}
    return policies, tuple(mistake for file in read for mistake in sorted(file.mistakes, key=_line))


def _draft(document: Located, file: _File, *, site: bool) -> _Draft | None:
    shapes = dict.fromkeys(("policy", "title", "sources", "terms"), lambda at, _say: at)
    fields = terms.record(shapes, {"like": lambda at, _say: at})(document, file.say)
    policy_id = terms.text(fields["policy"], file.say) if "policy" in fields else None
    title = terms.text(fields["title"], file.say) if "title" in fields else None
    if policy_id is not None and policy_id != Path(file.name).stem:
        file.say(fields["policy"].line, f"the policy '{policy_id}' should stand in {policy_id}.yaml")
    sources = _sources(fields["sources"], file) if "sources" in fields else {}
    dated: dict[str, tuple[Term, ...]] = {}
    if "terms" in fields:
        for name, lines in _entries(fields["terms"], file).items():
            dated[str(name.value)] = _dated(name, lines, sources, file)
    if policy_id is None or title is None:
        return None
    return _Draft(Policy(policy_id, title, sources, dated, site=site), fields.get("like"), file)


def _dated(name: Located, lines: Located, sources: Mapping[str, Citation], file: _File) -> tuple[Term, ...]:
    shape = terms.TERMS.get(str(name.value))
    if shape is None:
        near = difflib.get_close_matches(str(name.value), terms.TERMS, n=1)
        hint = f"; perhaps '{near[0]}'" if near else f"; known are {', '.join(terms.TERMS)}"
        file.say(name.line, f"'{name.value}' is not a term{hint}")
        return ()
    found: list[Term] = []
    last: date | None = None
    if not isinstance(lines.value, Mapping) or not lines.value:
        file.say(name.line, f"'{name.value}' needs dated lines, each with a value and its source")
        return ()
    for key, entry in lines.value.items():
        since = terms.day(key, file.say)
        if not isinstance(entry.value, Mapping):
            file.say(entry.line, f"'{name.value}' needs a value and its source")
            continue
        given = {field.value: at for field, at in entry.value.items()}
        terms.record({"value": lambda at, _say: at, "source": terms.text})(entry, file.say)
        source = given.get("source")
        if source is not None and isinstance(source.value, str) and source.value not in sources:
            file.say(source.line, f"the source '{source.value}' is not among the sources of this file")
        at = given.get("value")
        value = None if at is None or at.value is None else shape(at, file.say)
        if since is not None and source is not None and source.value in sources:
            found.append(Term(str(name.value), value, since, sources[str(source.value)]))
        if since is not None and last is not None and since < last:
            file.say(key.line, f"{since} stands below {last}; dates ascend")
        last = since or last
    return tuple(found)


def _joined(
    draft: _Draft, drafts: Mapping[str, _Draft], known: Mapping[str, Policy], followers: set[str]
) -> Policy:
    if draft.like is None:
        return draft.policy
    base_id = str(draft.like.value)
    base = drafts[base_id].policy if base_id in drafts else known.get(base_id)
    say = functools.partial(draft.file.say, draft.like.line)
    if base is None:
        say(f"like: there is no policy '{base_id}'; known are {', '.join(sorted({*known, *drafts}))}")
        return draft.policy
    if base_id in followers or (base_id not in drafts and base.like is not None):
        say(f"like: '{base_id}' follows another policy itself; only one step is read")
        return draft.policy
    return dataclasses.replace(
        draft.policy,
        like=base_id,
        sources={**base.sources, **draft.policy.sources},
        terms={**base.terms, **draft.policy.terms},
    )


# ---- codes ---------------------------------------------------------------------------------------

_code = terms.record(
    {
        "system": terms.one_of("CPT", "HCPCS"),
        "name": terms.text,
        "kind": terms.one_of(*KINDS),
        "disciplines": terms.many(terms.text),
        "source": terms.text,
    },
    {
        "base_minutes": terms.whole,
        "addl_minutes": terms.whole,
        "minimum_minutes": terms.whole,
        "addon_code": terms.code,
        "addon_of": terms.code,
        "designation": terms.one_of("always", "sometimes"),
        "valid_from": terms.day,
        "valid_to": terms.day,
        "replaced_by": terms.codes,
    },
)


def _read_codes(name: str, content: bytes) -> tuple[CodeTable, tuple[Mistake, ...]]:
    file = _File(name)
    document = file.read(content)
    found: dict[str, Code] = {}
    if document is not None:
        keep = lambda at, _say: at  # noqa: E731  the two parts are read below, one after the other
        parts = terms.record({"sources": keep, "codes": keep})(document, file.say)
        sources = _sources(parts["sources"], file) if "sources" in parts else {}
        for key, entry in _entries(parts["codes"], file).items() if "codes" in parts else ():
            code = terms.code(key, file.say)
            before = len(file.mistakes)
            fields = _code(entry, file.say)
            source = fields.pop("source", None)
            if source is not None and source not in sources:
                file.say(entry.line, f"the source '{source}' is not among the sources of this file")
            if code is not None and len(file.mistakes) == before:
                found[code] = Code(code=code, citation=sources[source], **fields)
    return CodeTable(found), tuple(file.mistakes)


# ---- edits ---------------------------------------------------------------------------------------

_SETTINGS = (Setting.PRACTITIONER, Setting.OUTPATIENT_HOSPITAL)
_whole_or_unread: Shape = lambda at, say: None if at.value is None else terms.whole(at, say)  # noqa: E731

_edits = terms.record(
    {
        "quarter": terms.day,
        "complete_from": terms.day,
        "sources": lambda at, _say: at,
        "pairs": terms.many(
            terms.record(
                {},
                {
                    "first": terms.codes,
                    "second": terms.codes,
                    "among": terms.codes,
                    "order": terms.one_of("unknown"),
                    "practitioner": terms.whole,
                    "outpatient-hospital": terms.whole,
                    "from": terms.day,
                    "to": terms.day,
                },
            )
        ),
        "known_in_part": terms.codes,
        "units": terms.pairs(
            terms.code,
            terms.record({"units": terms.many(_whole_or_unread, twice=True)}, {"mai": terms.whole}),
        ),
    }
)


def _read_edits(name: str, content: bytes) -> tuple[Edits, tuple[Mistake, ...]]:
    file = _File(name)
    document = file.read(content)
    fields = {} if document is None else _edits(document, file.say)
    sources = _sources(fields["sources"], file) if "sources" in fields else {}
    if file.mistakes:
        return Edits({}, {}), tuple(file.mistakes)
    quarter = fields["quarter"]
    return Edits.of(
        tuple(_shipped_pairs(fields, setting, sources[f"ncci-{quarter:%Y-%m}"]) for setting in _SETTINGS),
        tuple(
            UnitTable(
                quarter=quarter,
                setting=setting,
                citation=sources[f"mue-{quarter:%Y-%m}"],
                values={
                    code: UnitEdit(code, at["units"][position], at.get("mai"))
                    for code, at in fields["units"].items()
                    if at["units"][position] is not None
                },
                imported=False,
            )
            for position, setting in enumerate(_SETTINGS)
        ),
    ), ()


def _shipped_pairs(fields: Mapping[str, Any], setting: Setting, citation: Citation) -> PairTable:
    found: dict[Pair, tuple[PairEdit, ...]] = {}
    looked_up: set[str] = set(fields["units"])
    unread: set[Pair] = set()
    for row in fields["pairs"]:
        of_row = tuple(
            itertools.combinations(row["among"], 2)
            if "among" in row
            else itertools.product(row["first"], row["second"])
        )
        looked_up.update(itertools.chain.from_iterable(of_row))
        for column_1, column_2 in of_row:
            pair = frozenset((column_1, column_2))
            if setting.value not in row:
                unread.add(pair)
                continue
            edit = PairEdit(
                column_1=column_1,
                column_2=column_2,
                indicator=row[setting.value],
                effective=row.get("from", fields["complete_from"]),
                deleted=row.get("to"),
                ordered="order" not in row,
            )
            found[pair] = (*found.get(pair, ()), edit)
    return PairTable(
        quarter=fields["quarter"],
        setting=setting,
        citation=citation,
        pairs=found,
        covers=frozenset(looked_up.difference(fields["known_in_part"])),
        covers_from=fields["complete_from"],
        unread=frozenset(unread),
        imported=False,
    )
