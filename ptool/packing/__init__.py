"""From token shards to rows of one length: the plan in integers, and its execution."""
