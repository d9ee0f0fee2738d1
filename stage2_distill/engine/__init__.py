"""One training loop for every recipe: distillation and adaptation, GaussianCross, fields, fine-tuning.

recipe.py         what a kind of training adds: a batch, its loss, validation, what is saved
trainer.py        one optimiser step: accumulation, clipping, skipped steps, EMA, processes
loop.py           a run: folder, resume, prefetching, progress, logs, validation, interruption
settings.py       the settings that all recipes share
optim.py schedule.py ema.py seeds.py means.py prefetch.py
checkpointing.py run_folder.py logs.py interruptions.py
distributed.py synced_norm.py sharding.py
"""
