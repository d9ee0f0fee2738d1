"""Options that the trainings of stage 2 share."""

from __future__ import annotations

import click

from chorus_common.runtime.options import out_option

#: -> val_split
val_split_option = click.option(
    "--val-split", help="Split of the manifest to validate on. The best student goes to OUT/best."
)
#: -> out
run_folder_option = out_option("Folder of the run and of what it trains. The same command again goes on.")
