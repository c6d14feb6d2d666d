"""The row rule of packed datasets, followed one token at a time: the twin that array code must equal."""

from __future__ import annotations

NO_TARGET = -100


def brute_force(
    documents: list[list[int]], rows: list[list[tuple[int, int, int]]], seq_len: int, eod: int | None
) -> tuple[list[list[int | None]], list[list[int]], list[list[int]], list[list[int]]]:
    """Tokens (None: padding), targets, segments and positions of rows of (document, offset, length) spans."""
    tokens, targets, segments, positions = [], [], [], []
    for spans in rows:
        owners = [(document, at) for document, offset, length in spans for at in range(offset, offset + length)]
        row = [documents[document][at] for document, at in owners]
        target: list[int] = []
        segment: list[int] = []
        position: list[int] = []
        previous = None
        for column, (document, at) in enumerate(owners):
            is_end = at == len(documents[document]) - 1
            following = owners[column + 1] if column + 1 < len(owners) else None
            ends_in_eod = is_end and eod is not None and row[column] == eod
            if ends_in_eod and following is not None and following[1] == 0:  # the first input of the next document
                owner = following[0]
                target.append(row[column + 1])
            else:
                owner = document
                target.append(NO_TARGET if is_end else documents[document][at + 1])
            starts = column == 0 or owner != previous
            segment.append(segment[-1] + 1 if starts and segment else segment[-1] if segment else 0)
            position.append(0 if starts else position[-1] + 1)
            previous = owner
        padding = seq_len - len(row)
        tokens.append([*row, *[None] * padding])
        targets.append([*target, *[NO_TARGET] * padding])
        segments.append([*segment, *[-1] * padding])
        positions.append([*position, *[0] * padding])
    return tokens, targets, segments, positions
