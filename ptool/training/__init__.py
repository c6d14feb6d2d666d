"""Training under DeepSpeed: plan, ranks, the step, checkpoints, spikes. Importing this package imports nothing heavy.

Read first `config.py` (every setting), `course.py` (what every step is) and `loop.py` (what is done with each). All by
what it is about:

    the plan        config, settings_text, resolving, phases, requirements -> planning; course, schedule;
                    changing (at resume), initial
    the data        corpus, data, sources
    the step        attempt -> engine (all that knows DeepSpeed), optimizer, scaling; spikes (the verdict), faults
    the past        history (ledger, metrics), timeline; checkpoints, saving, rotation, anchors, snapshots;
                    engine_state, random_state; finish
    the processes   run -> launch -> rank -> loop; launch_folder, ranks (what they say to one another), locks, signals,
                    deadlines, heartbeat, machine, visibility, sbatch
    the observers   instruments -> validation, layers, series, tensorboard, trackers, stopwatch, utilisation;
                    spike_report, evidence, nonfinite, kernel_log; replay, picture
"""
