"""What flows between the stages: document streams, manifests, token shards, packed rows. Nothing else."""
