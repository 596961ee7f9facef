"""Encode labels on one machine, classify on another that has no text encoder.

    python examples/labels_without_the_text_encoder.py export eurosat.safetensors
    python examples/labels_without_the_text_encoder.py classify eurosat.safetensors my-tiles/*.png

With sattxt-mini both steps run anywhere; with the published model the first needs the 8-billion-parameter LLM, the
second does not touch it. Pass --model for another model.
"""

import argparse

from sattxt import SatTxt

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("step", choices=["export", "classify"])
parser.add_argument("bank")
parser.add_argument("images", nargs="*")
parser.add_argument("--model", default="sattxt-mini")
parser.add_argument("--label-set", default="eurosat")
arguments = parser.parse_args()

model = SatTxt.from_pretrained(arguments.model)
if arguments.step == "export":
    bank = model.export_labels(arguments.bank, label_set=arguments.label_set)
    print(f"{arguments.bank}: {len(bank.texts)} texts for {len(bank.labels)} labels, by {bank.model}")
else:
    classifier = model.classifier(model.import_labels(arguments.bank))
    for result in classifier(arguments.images):
        print(result)
