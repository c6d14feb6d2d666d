"""From text to tokens: training a vocabulary, and encoding document streams into shards."""
