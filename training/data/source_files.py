"""The kind of a source file, and the same table as a file that DuckDB reads without guessing.

The first bytes decide the kind, not the suffix. What is packed, in another encoding than UTF-8, has
lines that are no rows, backslashes before quotes or line ends of several kinds is written anew, plain,
into a folder beside the spill; all else is read where it lies.
"""

from __future__ import annotations

import codecs
import collections
import contextlib
import itertools
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from timberline.registry.runtime.files import explain_refusal
from timberline.training.config import EtlSection, ModelConfig
from timberline.training.data.lines import (
    Marks,
    RowShape,
    count_line_ends,
    plain_lines,
    split_record,
    survey_lines,
    write_with_lf,
)
from timberline.training.errors import DatasetError, TrainingError

ENCODING_HINT = 'Set [etl] encoding to what it is: "latin-1", "windows-1252" or "utf-16".'
_CHUNK_BYTES = 1 << 20
# No header is longer; DuckDB's rows are not either.
_HEAD_BYTES = 2_000_000
_LOOKED_AT = 4096
_PARQUET, _ZIP = b"PAR1", b"PK"
_PACKED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
# A CSV whose header happens to begin like a file of another kind ("PAR1,PAR2") has no such byte.
_BINARY = re.compile(rb"[\x00-\x08\x0e-\x1f\x80-\xff]")
# What is mistaken for a table, by its first bytes, and what to do with it.
_OTHERS = (
    (rb"\xff\xfe\x00\x00|\x00\x00\xfe\xff", "UTF-32 text", "Save it as UTF-8."),
    (rb"BZh[1-9]", "a bzip2 file", "Unpack it, or pack it with gzip or zstd."),
    (rb"\xfd7zXZ\x00", "an xz file", "Unpack it, or pack it with gzip or zstd."),
    (rb"7z\xbc\xaf|Rar!\x1a", "an archive", "Unpack it, and give the path of the table in it."),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel workbook (.xls)", "Save its sheet as CSV UTF-8."),
    (rb"PARE", "a Parquet file with an encrypted footer", "Write it without encryption."),
    (rb"ARROW1|ORC|Obj\x01|\x89HDF", "an Arrow, ORC, Avro or HDF5 file", "Write it as Parquet."),
    (rb"SQLite format 3\x00", "an SQLite database", "Write its table as CSV or Parquet."),
    (rb"\x93NUMPY", "a NumPy array", "Write it as Parquet, with the names of its columns."),
    (rb"%PDF-", "a PDF", "Find the table that it was made of."),
)
_TEXTS = (
    (
        rb"<(!doctype\s+html|html|head|body)\b",
        "a web page",
        "Open its address in a browser: it may ask to sign in.",
    ),
    (rb"<\?xml|<!--|<svg\b", "XML", "Write its table as CSV or Parquet."),
    (rb"[\[{]\s*[\[{\"]", "JSON", "Write its table as CSV or Parquet."),
)
_UTF16_BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# Control characters in Latin-1, letters and quotes in Windows-1252.
_WINDOWS = re.compile(r"[\x80-\x9f]")
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f]")


@dataclass(frozen=True)
class SourceFile:
    """How DuckDB is to read one source file.

    ``path``: the file itself or a plain copy, absolute, as DuckDB names it. ``name``: what it is called
    in the source, for people.
    ``header``: the names of its columns, which stand in it or are the declared ones; ``skip``: how many
    lines are before them and the rows. Both, ``new_line`` and ``is_multiline`` (see `training.data.lines`)
    are for CSV only.
    """

    path: Path
    name: str
    is_parquet: bool
    header: tuple[str, ...] = ()
    skip: int = 0
    new_line: str = "\n"
    is_multiline: bool = False


def open_source_files(config: ModelConfig, files: Sequence[Path], scratch: Path) -> tuple[SourceFile, ...]:
    """What each file is, in their order; what has to be written anew goes into ``scratch``.

    Raises:
        DatasetError: a file is no table, is cut short, or has another encoding than ``etl.encoding``, or
            a quote in it is never closed.
        TrainingError: a copy could not be written.
    """
    names = collections.Counter(file.name for file in files)
    return tuple(
        _open_source_file(
            config,
            file.resolve(),
            file.name if names[file.name] == 1 else str(file),
            scratch.resolve() / str(number),
        )
        for number, file in enumerate(files)
    )


def _open_source_file(config: ModelConfig, file: Path, name: str, scratch: Path) -> SourceFile:
    head, packing = _read_head(file, name)
    if head.startswith(_PARQUET) and (_BINARY.search(head) or head.endswith(_PARQUET)):
        path = file if packing is None else _copy(_unpack(file, packing, name), scratch / "table")
        return SourceFile(path, name, is_parquet=True)
    _refuse_other(file, name, head)
    codec = _find_codec(name, head, config.etl)
    marks = _marks(config.etl)
    path = file
    if packing or codec != "utf-8" or marks:
        chunks = _unpack(file, packing, name)
        chunks = chunks if codec == "utf-8" else recode(chunks, codec, name)
        path = _copy(plain_lines(_without_bom(chunks), marks) if marks else chunks, scratch / "table")
    header, skip = _read_header(config, path, name)
    layout = survey_lines(path, _row_shape(config, header), where=name)
    if layout.new_line is not None:
        return SourceFile(path, name, False, header, skip, layout.new_line, layout.is_multiline)
    with _writing(scratch):
        write_with_lf(path, scratch / "lines", config.etl.delimiter)
    if path != file:
        path.unlink()
    return SourceFile(scratch / "lines", name, False, header, skip, "\n", layout.is_multiline)


def _marks(etl: EtlSection) -> Marks:
    return Marks(etl.delimiter.encode(), etl.skip_lines, etl.comment.encode(), etl.escape == "\\")


def _without_bom(chunks: Iterator[bytes]) -> Iterator[bytes]:
    yield next(chunks, b"").removeprefix(codecs.BOM_UTF8)
    yield from chunks


@dataclass(frozen=True)
class Plain:
    """A source file that is not packed: itself or a copy; Parquet, or text in whatever encoding."""

    path: Path
    is_parquet: bool


def open_plain(file: Path, name: str, scratch: Path) -> Plain:
    """The file unpacked, for who does not know yet how it is written.

    Raises:
        DatasetError: it is empty, cut short or of a kind that is no table.
        TrainingError: the copy could not be written.
    """
    head, packing = _read_head(file, name)
    path = _copy(_unpack(file, packing, name), scratch / "unpacked") if packing else file
    is_parquet = head.startswith(_PARQUET) and bool(_BINARY.search(head) or head.endswith(_PARQUET))
    if not is_parquet:
        _refuse_other(path, name, head)
    return Plain(path, is_parquet)


def _row_shape(config: ModelConfig, header: tuple[str, ...]) -> RowShape:
    declared = [config.columns.get(name) for name in header]
    is_number = tuple(
        column is not None and column.role != "ignored" and column.type in ("integer", "number")
        for column in declared
    )
    return RowShape(
        config.etl.delimiter, is_number, frozenset(text.encode() for text in config.etl.null_text)
    )


def _read_head(file: Path, name: str) -> tuple[bytes, str | None]:
    """The first bytes, unpacked, and how the file is packed."""
    with file.open("rb") as opened:
        head = opened.read(_LOOKED_AT)
    packing = next((kind for magic, kind in _PACKED.items() if head.startswith(magic)), None)
    if packing:
        head = next(_unpack(file, packing, name), b"")[:_LOOKED_AT]
    if not head.removeprefix(codecs.BOM_UTF8):
        raise DatasetError("is empty", where=name)
    return head, packing


def _unpack(file: Path, packing: str | None, name: str) -> Iterator[bytes]:
    """The bytes of the table in chunks."""
    # Late: only packed files need it.
    import pyarrow as pa  # noqa: PLC0415

    try:
        with pa.input_stream(str(file), compression=packing) as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                yield chunk
    except OSError as error:  # Arrow's own errors too
        raise DatasetError(
            f"cannot be unpacked ({packing}): {error}" if packing else f"cannot be read: {error}",
            where=name,
            hint="It is cut short or damaged; fetch it again." if packing else "",
        ) from error


def recode(chunks: Iterator[bytes], codec: str, name: str) -> Iterator[bytes]:
    """The text in ``codec`` as UTF-8.

    Raises:
        DatasetError: there is a byte that is no character of it; names the line.
    """
    decoder = codecs.getincrementaldecoder(codec)()
    line = 1
    for chunk in itertools.chain(chunks, [b""]):
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            line += count_line_ends(error.object[: error.start].decode(codec, "replace").encode())
            raise DatasetError(
                f"line {line} is not {codec.replace('cp', 'windows-')} text: {error.reason}",
                where=name,
                hint="Set [etl] encoding to what it is, or correct the line.",
            ) from error
        if codec == "latin-1" and (found := _WINDOWS.search(text)):
            line += count_line_ends(text[: found.start()].encode())
            raise DatasetError(
                f"line {line} holds the byte 0x{ord(found[0]):02X}, which is no character of Latin-1",
                where=name,
                hint='It may be Windows-1252: set [etl] encoding = "windows-1252".',
            )
        recoded = text.encode()
        line += count_line_ends(recoded)
        yield recoded


def _copy(chunks: Iterator[bytes], target: Path) -> Path:
    with _writing(target.parent), target.open("wb") as copy:
        copy.writelines(chunks)
    return target


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise TrainingError(
            f"a plain copy of the source cannot be written: {error.strerror}",
            where=str(folder),
            hint="" if explain_refusal(error) else "Is the disk full?",
        ) from error


def _refuse_other(file: Path, name: str, head: bytes) -> None:
    if _BINARY.search(head):
        if head.startswith(_ZIP) and zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                is_excel = any(member.startswith("xl/") for member in archive.namelist())
            raise DatasetError(
                "is an Excel workbook (.xlsx), not a table" if is_excel else "is a zip archive, not a table",
                where=name,
                hint="Save its sheet as CSV UTF-8."
                if is_excel
                else "Unpack it, and give the path of the table.",
            )
        for magic, kind, hint in _OTHERS:
            if re.match(magic, head):
                raise DatasetError(f"is {kind}, not a table", where=name, hint=hint)
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    for begin, kind, hint in _TEXTS:
        if re.match(begin, text, re.IGNORECASE):
            raise DatasetError(f"is {kind}, not a table", where=name, hint=hint)


def _find_codec(name: str, head: bytes, etl: EtlSection) -> str:
    """Python's name of the encoding in the settings, which the first bytes must not contradict."""
    zeros = head[0::2].count(0), head[1::2].count(0)
    # In UTF-16 every other byte of a Latin letter, digit or delimiter is zero.
    is_wide = head.startswith(_UTF16_BOMS) or (max(zeros) > len(head) / 4 and min(zeros) < len(head) / 40)
    has_bom = head.startswith(codecs.BOM_UTF8)
    found = "utf-16" if is_wide else "utf-8" if has_bom else etl.encoding
    if found != etl.encoding or (etl.encoding == "utf-16" and not is_wide and not any(zeros)):
        raise DatasetError(
            f'is {found.upper()} text, and etl.encoding is "{etl.encoding}"'
            if found != etl.encoding
            else "is not UTF-16 text: there is no zero byte at its beginning",
            where=name,
            hint=f'Set [etl] encoding = "{found if found != etl.encoding else "utf-8"}".',
        )
    if etl.encoding != "utf-16" or head.startswith(_UTF16_BOMS):
        return {"windows-1252": "cp1252"}.get(etl.encoding, etl.encoding)
    return "utf-16-le" if zeros[1] >= zeros[0] else "utf-16-be"


def _read_header(config: ModelConfig, path: Path, name: str) -> tuple[tuple[str, ...], int]:
    """The names of the columns, and how many lines are before them (without a header, before the rows)."""
    etl = config.etl
    with path.open("rb") as file:
        data = file.read(_HEAD_BYTES).removeprefix(codecs.BOM_UTF8)
        if len(data) < _HEAD_BYTES:
            data += b"\n"
    skip = 0
    if _marks(etl):
        # Lines that are passed over are empty by now.
        skip = count_line_ends(data[: len(data) - len(data.lstrip(b"\r\n"))])
        data = data.lstrip(b"\r\n")
    if data.startswith((b"\n", b"\r")):
        raise DatasetError(
            "line 1 is empty", where=name, hint="The names of the columns must stand in the first line."
        )
    cells = split_record(data, etl.delimiter)
    if cells is None:
        if not data:
            raise DatasetError("has no line behind those that are passed over", where=name)
        survey_lines(path, RowShape(etl.delimiter, (False,)), where=name)
        raise DatasetError(f"has no line end in its first {_HEAD_BYTES:,} bytes", where=name)
    first = _decode_cells(cells, name, skip + 1)
    return (first if etl.header else _declared_header(config, first, name, skip + 1)), skip


def _decode_cells(cells: Sequence[bytes], name: str, line: int) -> tuple[str, ...]:
    for cell in cells:
        if _CONTROL.search(cell):
            raise DatasetError(
                f"line {line} holds control characters ({cell.decode('latin-1')[:80]!r}), so it is no header",
                where=name,
                hint="Is it a file of another kind, or damaged?",
            )
    try:
        return tuple(cell.decode() for cell in cells)
    except UnicodeDecodeError as error:
        shown = error.object.decode("latin-1")[:80]
        raise DatasetError(
            f"line {line} is not UTF-8 text: byte 0x{error.object[error.start]:02X} in {shown!r}",
            where=name,
            hint=ENCODING_HINT,
        ) from error


def _declared_header(config: ModelConfig, cells: tuple[str, ...], name: str, line: int) -> tuple[str, ...]:
    """The declared names, in whose order the cells of a row stand."""
    declared = tuple(config.columns)
    if set(cells) == set(declared):
        raise DatasetError(
            f"line {line} has the names of the columns, and etl.header is false",
            where=name,
            hint="Set [etl] header = true, or leave it out.",
        )
    # An empty cell behind the last column is passed over, as in every row.
    if len(cells) == len(declared) or (len(cells) == len(declared) + 1 and not cells[-1]):
        return declared
    raise DatasetError(
        f"line {line} has {len(cells):,} cell{'s' * (len(cells) != 1)}, and [columns] declares "
        f"{len(declared):,} columns, which are known by their place where there is no header",
        where=name,
        hint="Declare every column in the order of the file, those to read past as well "
        '(role = "ignored"); or correct etl.delimiter or etl.skip_lines.',
    )
