"""Small models trained on prose that every Python carries."""

from __future__ import annotations

import pydoc_data.topics
from pathlib import Path

import pytest

from ptool.tokenizers.loading import Tokenizer, load_tokenizer
from ptool.tokenizing.vocabulary import VocabularyConfig, train

OTHER_SCRIPTS = "天地玄黃，宇宙洪荒。日月盈昃，辰宿列張。\n\n寒來暑往，秋收冬藏。 Привет, мир! Καλημέρα κόσμε.\n" * 40


@pytest.fixture(scope="session", params=["bpe", "unigram"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    texts = [topic.encode() for topic in pydoc_data.topics.topics.values()]
    model = train([*texts, OTHER_SCRIPTS.encode()], VocabularyConfig(vocab_size=2500, type=request.param))
    path: Path = tmp_path_factory.mktemp("tokenizer") / "tok.model"
    path.write_bytes(model)
    return load_tokenizer(path)
