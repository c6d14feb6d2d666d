from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptool.errors import UsageError
from ptool.formats.streams import Lines
from ptool.text.batch import BadLine, Batch, Keys, decode


def lines(data: bytes, *, origin: str = "crawl.jsonl", first_number: int = 1) -> Lines:
    return Lines(data=data, origin=origin, path=f"in/{origin}", first_number=first_number)


def texts(batch: Batch) -> list[str]:
    return [batch.text_of(index).decode() for index in range(len(batch))]


def only_bad(data: bytes, keys: Keys | None = None) -> BadLine:
    batch, bad = decode(lines(data), keys)
    assert len(batch) == 0
    assert len(bad) == 1
    return bad[0]


def test_a_line_with_an_id_keeps_its_bytes() -> None:
    data = b' { "x": [1, 2.50],\t"text" : "caf\\u00e9" ,"id":"a"}  \r\n{"text":"\xe4\xb8\xad","id":"b","z":1e400}\n'
    batch, bad = decode(lines(data))
    assert not bad
    assert batch.lines == data
    assert batch.ids == ["a", "b"]
    assert texts(batch) == ["café", "中"]
    assert batch.offsets.tolist() == [0, 5, 8]
    assert [batch.line(0), batch.line(1)] == data.splitlines(keepends=True)


def test_a_missing_id_is_spliced_in_after_the_brace_and_nothing_else_changes() -> None:
    batch, _ = decode(lines(b' {"text":"a", "n": 1.0}\r\n', first_number=7))
    assert batch.lines == b' {"id":"crawl.jsonl#7","text":"a", "n": 1.0}\r\n'
    assert batch.ids == ["crawl.jsonl#7"]
    again, _ = decode(lines(batch.lines, origin="other.jsonl"))
    assert again.lines == batch.lines
    assert again.ids == ["crawl.jsonl#7"]


def test_ids_from_stdin_and_from_awkward_file_names_are_valid_json() -> None:
    assert decode(lines(b'{"text":""}\n', origin="-"))[0].ids == ["-#1"]
    for origin in ('a "quoted" name', "文 件.jsonl", "back\\slash", "new\nline"):
        batch, _ = decode(lines(b'{"text":""}\n', origin=origin))
        assert json.loads(batch.lines) == {"id": f"{origin}#1", "text": ""}
    batch, _ = decode(lines(b'{"text":""}\n', origin="not-\udcff-utf8"))
    assert json.loads(batch.lines)["id"] == "not-\\udcff-utf8#1"


def test_blank_lines_are_no_documents_and_no_errors_but_are_counted_in_line_numbers() -> None:
    batch, bad = decode(lines(b'\n  \t\r\n{"text":"a"}\n\n{"text":"b"}\nx\n', first_number=10))
    assert batch.numbers.tolist() == [12, 14]
    assert batch.ids == ["crawl.jsonl#12", "crawl.jsonl#14"]
    assert [one.number for one in bad] == [15]


def test_a_last_line_without_a_newline_gets_one() -> None:
    batch, _ = decode(lines(b'{"text":"a","id":"1"}'))
    assert batch.lines == b'{"text":"a","id":"1"}\n'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"nonsense", "not JSON: "),
        (b'{"text":"a"} {"text":"b"}', "not JSON: "),
        (b'{"text":"a","n":01}', "not JSON: "),
        (b'{"text":"a","n":NaN}', "not JSON: "),
        (b'{"text":"a"', "not JSON: "),
        (b'{"id":"1"}', "no text: the field 'text' is missing"),
        (b"{}", "no text: the field 'text' is missing"),
        (b'{"text":null}', "the field 'text' is null, not a string"),
        (b'{"text":["a"]}', "the field 'text' is an array, not a string"),
        (b'{"text":"a","id":7}', "the field 'id' is a number, not a string"),
        (b'{"text":"a","id":null}', "the field 'id' is null, not a string"),
        (b'["text"]', "not a JSON object but an array"),
        (b'{"text":"a\xff"}', "invalid UTF-8 at byte 11 of the line"),
        (b'{"text":"a","other":"\xff"}', "invalid UTF-8 at byte 22 of the line"),
        (b'{"text":"a","\xff":1}', "invalid UTF-8 at byte 14 of the line"),
        (b'{"text":"\xed\xa0\x80"}', "invalid UTF-8 at byte 10 of the line"),
        (b'{"text":"\\ud800"}', "a lone surrogate: half of a \\u pair, which is no character"),
        (b'{"text":"a","other":"\\udc00 and more"}', "a lone surrogate: half of a \\u pair, which is no character"),
        (b'{"text":"a","\\ud800 key":1}', "a lone surrogate: half of a \\u pair, which is no character"),
        (b'\xef\xbb\xbf{"text":"a"}', "a byte order mark before the document"),
        (b'{"text":"a","deep":' + b"[" * 1_000_000, "not JSON that can be read: nested too deeply"),
    ],
)
def test_a_line_that_is_no_document_says_why(line: bytes, message: str) -> None:
    bad = only_bad(line + b"\n")
    assert bad.raw == line
    assert bad.message.startswith(message)


def test_bad_lines_do_not_touch_their_neighbours() -> None:
    good = b'{"text":"\xe4\xb8\xad","id":"1"}\n'
    batch, bad = decode(lines(good + b'{"text":"\xff"}\n' + good))
    assert batch.lines == good * 2
    assert [one.number for one in bad] == [2]


def test_keys_map_a_foreign_schema() -> None:
    keys = Keys(text="content", id="url", source="site")
    batch, bad = decode(lines(b'{"content":"a","url":"u","site":"s","text":3}\n{"content":"b","id":9}\n'), keys)
    assert not bad
    assert batch.ids == ["u", "crawl.jsonl#2"]
    assert batch.sources == ["s", None]
    assert batch.line(1) == b'{"url":"crawl.jsonl#2","content":"b","id":9}\n'
    assert only_bad(b'{"text":"a"}\n', keys).message == "no text: the field 'content' is missing"


def test_two_fields_under_one_key_are_refused() -> None:
    with pytest.raises(UsageError, match="three different keys"):
        Keys(text="id")


def test_a_source_that_is_no_string_is_the_users_own_affair() -> None:
    sources = (b'"web"', b'{"a":1}', b"null", b"1e999")
    batch, bad = decode(lines(b"".join(b'{"text":"","source":%s}\n' % source for source in sources)))
    assert not bad
    assert batch.sources == ["web", None, None, None]


def test_select_copies_exactly_the_kept_lines() -> None:
    data = b"".join(b'{"id":"%d","text":"%s"}\n' % (number, b"x" * number) for number in range(9))
    batch, _ = decode(lines(data))
    split = data.splitlines(keepends=True)
    for pattern in range(1 << 9):
        keep = np.array([pattern >> bit & 1 for bit in range(9)], dtype=bool)
        assert batch.select(keep) == b"".join(line for line, kept in zip(split, keep, strict=True) if kept)


def test_an_empty_batch_is_a_batch() -> None:
    batch, bad = decode(lines(b""))
    assert (len(batch), bad, batch.lines) == (0, [], b"")
    assert batch.select(np.zeros(0, dtype=bool)) == b""
    assert len(batch.words.starts) == len(batch.text_lines.starts) == 0


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
documents = st.dictionaries(st.sampled_from(["text", "id", "source", "x", "ä"]) | st.text(max_size=3), json_values)


@given(st.lists(documents, max_size=5), st.booleans())
def test_every_line_is_a_document_or_a_bad_line_as_the_json_module_sees_it(
    found: list[dict[str, object]], ascii_only: bool
) -> None:
    raw = [json.dumps(document, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass") for document in found]
    batch, bad = decode(lines(b"".join(line + b"\n" for line in raw)))
    good = [
        (number, document)
        for number, document in enumerate(found, start=1)
        if isinstance(document.get("text"), str) and isinstance(document.get("id", ""), str)
    ]
    assert batch.numbers.tolist() == [number for number, _ in good]
    assert texts(batch) == [document["text"] for _, document in good]
    assert len(batch) + len(bad) == len(found)
    for index, (number, document) in enumerate(good):
        expected = document if "id" in document else {"id": f"crawl.jsonl#{number}", **document}
        assert json.loads(batch.line(index)) == expected
        assert batch.ids[index] == expected["id"]


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_arbitrary_bytes_never_lose_a_line(before: bytes, after: bytes) -> None:
    data = before + b'{"text":"a","x":"' + after + b'"}\n'
    batch, bad = decode(lines(data))
    told = sum(1 for line in data.split(b"\n")[:-1] if line.strip(b" \t\r\n"))
    assert len(batch) + len(bad) == told


@given(st.text(st.characters(codec=None)))
def test_a_text_comes_out_as_it_went_in_or_is_named_a_lone_surrogate(text: str) -> None:
    batch, bad = decode(lines(json.dumps({"text": text, "id": ""}).encode() + b"\n"))
    try:
        text.encode()
    except UnicodeEncodeError:
        assert [one.message.partition(":")[0] for one in bad] == ["a lone surrogate"]
    else:
        assert texts(batch) == [text]
