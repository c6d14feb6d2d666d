"""The tokenizer that the tests of tokenizing share."""

from __future__ import annotations

import pytest

from ptool.tokenizers.loading import Tokenizer, load_tokenizer
from ptool.tokenizing.vocabulary import VocabularyConfig, train
from tests.tokenizing.topics import TOPICS


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tok.model"
    path.write_bytes(train([text.encode() for text in TOPICS], VocabularyConfig(vocab_size=800)))
    return load_tokenizer(path)
