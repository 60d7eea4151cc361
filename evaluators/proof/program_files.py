"""Programs on disk: in the ledger with their bytes, and as folders that can be run.

FOLDER/program.py     the counted script
FOLDER/payload.bin    the counted payload
FOLDER/requirements.txt  not counted: what to install, for `pip install -r`
FOLDER/examples.jsonl not counted: inputs and the outputs that the search recorded
FOLDER/manifest.json  not counted: digests, recipe, versions, and where it was verified
"""

import ast
import hashlib
import json
import re
import sys
from importlib.metadata import version
from typing import Any

from pydantic import ValidationError

from kilobit.evaluators.ledger.fencing import part_file
from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.ledger.parts import DamagedError
from kilobit.evaluators.ledger.storage import Place, read_own, read_regular, write_whole
from kilobit.evaluators.text_files import json_objects
from kilobit.search.programs.program import Program, build
from kilobit.search.programs.recipe import FORMAT_VERSION, Recipe
from kilobit.search.programs.script import readable_script
from kilobit.search.records import ProgramRecord

# A larger payload is a file of its own, so that the table stays quick to read.
_INLINE_BYTES = 1 << 20
_MAX_BYTES = {"manifest.json": 1 << 26, "program.py": 1 << 26, "payload.bin": 1 << 34}
_PACKAGES = ("torch", "transformers", "peft", "constriction", "numpy", "python-minifier", "brotli")
# What provides a module of another name.
_DISTRIBUTIONS = {"re2": "google-re2"}
_MAX_EXAMPLES_BYTES = 1 << 30
_PAYLOAD_FILE = re.compile(r"payloads/\w+\.bin")


class ProgramError(ValueError):
    """A folder holds no program of kilobit, or one that was changed."""


def write_program(ledger: Ledger, part: str, candidate: str, rung: int, program: Program) -> None:
    """Write a program as a part of the ledger.

    Raises:
        OSError: if it can't be written.
    """
    large = len(program.payload) > _INLINE_BYTES
    payload_file = f"payloads/{program.digest}.bin" if large else None
    record = ProgramRecord(
        candidate=candidate,
        rung=rung,
        program=program.digest,
        program_bits=program.program_bits,
        payload_bits=program.payload_bits,
        codecs=json.dumps(program.codecs, sort_keys=True),
        recipe=program.recipe.canonical(),
        script=program.script,
        payload=None if large else program.payload,
        payload_file=payload_file,
    )
    if payload_file is not None:
        write_whole(ledger.folder / payload_file, program.payload)
    ledger.write(ProgramRecord, part, [record])


def read_program(ledger: Ledger, part: str) -> Program:
    """Return the program of a part of the ledger.

    Raises:
        DamagedError: naming the part, if it or its payload is missing.
    """
    records = ledger.read_part(ProgramRecord, part)
    if not records:
        raise DamagedError(ledger.folder / "programs" / f"{part}.*", "the file is gone")
    return program_of(records[0], ledger.folder, _where(ledger, part))


def program_of(record: ProgramRecord, folder: Place, where: Place) -> Program:
    """Return the program of a record of the ledger.

    Args:
        record: the record.
        folder: where the relative path `payload_file` starts.
        where: file that holds the record.

    Raises:
        DamagedError: naming `where`, if its payload is missing or damaged.
    """
    recipe = Recipe.model_validate_json(record.recipe)
    if record.payload is not None:
        return Program(recipe, record.script, record.payload)
    assert record.payload_file is not None, "a record has a payload or the name of its file"
    place = folder / record.payload_file
    if not _PAYLOAD_FILE.fullmatch(record.payload_file):
        raise DamagedError(where, f"{record.payload_file!r:.60} is not a file of the ledger")
    try:
        program = Program(recipe, record.script, read_own(place))
    except FileNotFoundError as error:
        raise DamagedError(where, f"its payload in {place} is gone") from error
    except ValueError as error:
        raise DamagedError(where, f"its payload in {place}: {error}") from error
    if program.digest != record.program:
        raise DamagedError(where, f"its payload in {place} is damaged")
    return program


def _where(ledger: Ledger, part: str) -> Place:
    accepted = ledger.accepted()
    file = accepted.parts.get("programs", {}).get(part, part_file(part, accepted.attempt))
    return ledger.folder / "programs" / file


def folder_name(model: str, candidate: str) -> str:
    """Return the name of a program's folder in RUN/programs.

    The same files may be programs of several base models, each with its own outputs.
    """
    return f"{model}-{candidate}"


def write_folder(folder: Place, program: Program, about: dict[str, Any]) -> None:
    """Write a program as a folder that can be run.

    Args:
        folder: where to write; existing files are replaced.
        program: the program.
        about: further entries of the manifest.

    Raises:
        OSError: if a file can't be written.
    """
    write_whole(folder / "program.py", program.script)
    write_whole(folder / "payload.bin", program.payload)
    manifest = {
        "format": FORMAT_VERSION,
        "program": program.digest,
        "program_bits": program.program_bits,
        "payload_bits": program.payload_bits,
        "sha256": {
            "program.py": hashlib.sha256(program.script).hexdigest(),
            "payload.bin": hashlib.sha256(program.payload).hexdigest(),
        },
        "codecs": program.codecs,
        "versions": {name: version(name) for name in _PACKAGES},
        **about,
        "readable": readable_script(program.recipe).removesuffix("\n").split("\n"),
        "recipe": json.loads(program.recipe.canonical()),
    }
    write_whole(folder / "requirements.txt", _requirements(program).encode())
    write_whole(folder / "manifest.json", json.dumps(manifest, indent=1).encode())


def _requirements(program: Program) -> str:
    """Return a line for each distribution that the program imports, with its version here."""
    readable = readable_script(program.recipe)
    imported = set[str]()
    if program.recipe.printed is None:
        # Models need torch also where the script does not name it.
        imported |= {"torch", "accelerate"} if program.recipe.spread else {"torch"}
        if program.recipe.quantization is not None:
            imported |= {"accelerate", "bitsandbytes"}
    for text in (readable.encode(), program.script):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                imported |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(f"{node.module}".partition(".")[0])
    found = sorted(_DISTRIBUTIONS.get(name, name) for name in imported - sys.stdlib_module_names)
    # A build for one machine ("+cpu") is not what another one installs.
    return "".join(f"{name}=={version(name).partition('+')[0]}\n" for name in found)


def read_folder(folder: Place) -> tuple[Program, dict[str, Any], bool]:
    """Return the program of a folder, its manifest, and whether we build the same script.

    Raises:
        ProgramError: naming the file, if one is missing, damaged, too large or of another version.
    """
    found = {}
    try:
        for name, most in _MAX_BYTES.items():
            found[name] = _read(folder / name, most)
    except OSError as error:
        raise ProgramError(f"{folder} holds no program: {error}") from error
    try:
        manifest = json.loads(found.pop("manifest.json"))
    except (ValueError, RecursionError) as error:
        raise ProgramError(f"{folder / 'manifest.json'} is not JSON: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT_VERSION:
        theirs = manifest.get("format") if isinstance(manifest, dict) else None
        raise ProgramError(
            f"{folder / 'manifest.json'}: format {theirs!r}, this version reads {FORMAT_VERSION}"
        )
    for name, content in found.items():
        digests = manifest.get("sha256")
        expected = digests.get(name) if isinstance(digests, dict) else None
        if hashlib.sha256(content).hexdigest() != expected:
            raise ProgramError(f"{folder / name} is not the file that the manifest describes")
    try:
        recipe = Recipe.model_validate_json(json.dumps(manifest.get("recipe")), strict=True)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"])
        reason = problem["msg"].removeprefix("Value error, ")
        raise ProgramError(f"{folder / 'manifest.json'}: recipe.{field}: {reason}") from error
    program = Program(recipe, found["program.py"], found["payload.bin"])
    return program, manifest, _is_ours(program)


def _is_ours(program: Program) -> bool:
    try:
        return build(program.recipe, program.payload).script == program.script
    except Exception:  # noqa: BLE001 - a foreign recipe can fail in any way
        return False


def _read(path: Place, most: int) -> bytes:
    try:
        return read_regular(path, most)
    except ValueError as error:
        raise ProgramError(f"{path}: {error}") from error


def read_train(folder: Place) -> bytes:
    """Return the train split beside a program.

    Raises:
        ProgramError: if it is missing or can't be read.
    """
    try:
        return _read(folder / "train.jsonl", _MAX_EXAMPLES_BYTES)
    except OSError as error:
        raise ProgramError(f"{folder} lacks the train split: {error}") from error


def read_examples(folder: Place) -> list[dict[str, str]]:
    """Return the inputs and recorded outputs beside a program.

    Raises:
        ProgramError: naming file and line, if they can't be read.
    """
    file = folder / "examples.jsonl"
    found = []
    try:
        for where, one in json_objects(file, _read(file, _MAX_EXAMPLES_BYTES)):
            if not isinstance(one.get("input"), str) or not isinstance(one.get("output"), str):
                raise ProgramError(f"{where}: not an object with input and output")
            found.append({key: one[key] for key in ("input", "output")})
    except OSError as error:
        raise ProgramError(f"{file} can't be read: {error}") from error
    except ValueError as error:
        raise ProgramError(str(error)) from error
    if not found:
        raise ProgramError(f"{file}: the file holds no examples")
    return found
