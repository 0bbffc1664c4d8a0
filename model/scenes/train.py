"""Train the `scenes` bundle from scratch: `python -m model.scenes.train --out DIR`.

The encoder and the decoder learn together from drawn scenes, helped by the scaffold; then 1,000 unseen scenes
are captioned and every claim is checked. The same seed draws the same scenes in the same order.

Shapes:  B images of a batch   N captions of a batch   S image side
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn
from tqdm import tqdm

from model.bundle import save_bundle
from model.captioner import Captioner
from model.decoder import AttentionDecoder, DecoderSizes
from model.encoder import SCENE_CNN, Encoder, EncoderSpec, SceneCNN, freeze
from model.images import Preprocessing
from model.scenes.card import model_card
from model.scenes.evaluation import FactReport, caption_facts
from model.scenes.examples import IMAGE_SIZE, SceneExamples, draw_examples, shuffled_batches
from model.scenes.scaffold import Scaffold
from model.tokenizer import Tokenizer
from model.training import CaptionedFeatures, caption_loss, caption_tokens, padded, update, warmup_then_cosine

BUNDLE_NAME = "scenes"
PREPROCESSING = Preprocessing(size=IMAGE_SIZE, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
VALIDATION_SEED = 77


@dataclass(frozen=True, kw_only=True)
class SceneTraining:
    """How the bundle is trained."""

    scenes: int = 30_000
    epochs: int = 8
    batch_size: int = 64
    captions_per_image: int = 3
    """Captions of each image in one step; they share the encoder's work."""
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3
    warmup_steps: int = 300
    clip_norm: float = 5.0
    dropout: float = 0.0
    scaffold_weight: float = 0.3
    hidden: int = 256
    embedding: int = 128
    attention: int = 64
    replay: int = 300
    """How many captions are kept in the bundle, so that retraining does not forget this world."""
    unseen: int = 1000
    """How many scenes the finished captioner is checked on."""
    seed: int = 0


def main(argv: Sequence[str] | None = None) -> int:
    options, out = parse_arguments(argv)
    started = time.monotonic()
    torch.manual_seed(options.seed)
    examples = draw_examples(range(options.scenes))
    apprentice = Apprentice(examples, options)
    apprentice.learn()
    captioner = apprentice.captioner()
    report = caption_facts(captioner, options.unseen)
    record = {
        "command": " ".join(["python -m model.scenes.train", *(sys.argv[1:] if argv is None else argv)]),
        "options": asdict(options),
        "epochs": apprentice.log,
        "unseen": asdict(report),
        "minutes": round((time.monotonic() - started) / 60, 1),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    version = save_bundle(
        out,
        name=BUNDLE_NAME,
        encoder=captioner.encoder,
        decoder=captioner.decoder,
        tokenizer=captioner.tokenizer,
        replay=replay_examples(captioner, examples, options),
        record=record,
    )
    (out / "MODEL_CARD.md").write_text(model_card(version, record, report), "utf-8")
    print_report(report, version)
    return 0


def parse_arguments(argv: Sequence[str] | None) -> tuple[SceneTraining, Path]:
    defaults = SceneTraining()
    parser = argparse.ArgumentParser(prog="python -m model.scenes.train", description="Train the scenes bundle.")
    parser.add_argument("--out", type=Path, required=True, help="directory the bundle is written to")
    parser.add_argument("--scenes", type=int, default=defaults.scenes, help="training scenes (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=defaults.epochs, help="times each scene is seen (%(default)s)")
    parser.add_argument("--unseen", type=int, default=defaults.unseen, help="scenes to check (default %(default)s)")
    parser.add_argument("--replay", type=int, default=defaults.replay, help="captions to keep (default %(default)s)")
    parser.add_argument("--seed", type=int, default=defaults.seed, help="default %(default)s")
    arguments = vars(parser.parse_args(argv))
    out = arguments.pop("out")
    return SceneTraining(**arguments), out


class Apprentice:
    """Encoder, decoder and scaffold while they learn."""

    def __init__(self, examples: SceneExamples, options: SceneTraining) -> None:
        self.examples = examples
        self.options = options
        self.tokenizer = Tokenizer.build(caption for captions in examples.captions for caption in captions)
        self.tokens = [[caption_tokens(self.tokenizer, caption) for caption in few] for few in examples.captions]
        self.encoder = Encoder(EncoderSpec(name=SCENE_CNN, preprocessing=PREPROCESSING), SceneCNN())
        self.encoder.network.to(memory_format=torch.channels_last)
        sizes = DecoderSizes(
            vocabulary=self.tokenizer.size,
            features=self.encoder.feature_size,
            hidden=options.hidden,
            embedding=options.embedding,
            attention=options.attention,
        )
        self.decoder = AttentionDecoder(sizes, dropout=options.dropout)
        self.scaffold = Scaffold(self.encoder.feature_size)
        self.networks = nn.ModuleList([self.encoder, self.decoder, self.scaffold])
        self.log: list[dict[str, float]] = []

    def learn(self) -> None:
        """Train all three networks together; after each epoch some unseen scenes are checked."""
        options = self.options
        steps_per_epoch = len(self.examples) // options.batch_size
        steps = steps_per_epoch * options.epochs
        optimizer = torch.optim.AdamW(
            self.networks.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_then_cosine(options.warmup_steps, steps))
        order, picks = torch.Generator().manual_seed(options.seed), random.Random(options.seed)
        with tqdm(total=steps, desc="training", unit="step") as bar:
            for epoch in range(1, options.epochs + 1):
                self.networks.train()
                losses = []
                for batch in shuffled_batches(len(self.examples), options.batch_size, order):
                    caption, scaffold = self._losses(batch, picks)
                    update(self.networks, optimizer, caption + options.scaffold_weight * scaffold, options.clip_norm)
                    schedule.step()
                    losses.append(caption.item())
                    bar.set_postfix(epoch=epoch, caption=f"{losses[-1]:.3f}", scaffold=f"{scaffold.item():.3f}")
                    bar.update()
                self._note(epoch, sum(losses) / len(losses), bar)

    def captioner(self) -> Captioner:
        return Captioner(freeze(self.encoder), self.decoder.eval(), self.tokenizer, BUNDLE_NAME)

    def _losses(self, batch: Tensor, picks: random.Random) -> tuple[Tensor, Tensor]:
        """Return the caption loss, in nats per token, and the scaffold's loss of a batch of scene indices [B]."""
        examples = self.examples
        chosen = [self._pick(scene, picks) for scene in batch.tolist()]
        tokens = padded([caption for few in chosen for caption in few])  # [N, T]
        repeats = torch.tensor([len(few) for few in chosen])
        # bfloat16 halves the time on CPUs that have it; the losses stay in float32.
        with torch.autocast("cpu", torch.bfloat16):
            features = self.encoder(standardised(examples.images[batch]))
            logits = self.decoder(features.repeat_interleave(repeats, dim=0), tokens[:, :-1])
        caption = caption_loss(logits.float(), tokens[:, 1:], torch.ones(len(tokens)))
        targets = (examples.cells[batch], examples.facts[batch], examples.boxes[batch], examples.grounds[batch])
        return caption, self.scaffold(features.float(), *targets)

    def _pick(self, scene: int, picks: random.Random) -> list[list[int]]:
        captions = self.tokens[scene]
        return picks.sample(captions, min(self.options.captions_per_image, len(captions)))

    def _note(self, epoch: int, loss: float, bar: "tqdm[NoReturn]") -> None:
        self.networks.eval()
        captioner = Captioner(self.encoder, self.decoder, self.tokenizer, BUNDLE_NAME)
        report = caption_facts(captioner, 200, seed=VALIDATION_SEED, size=160)
        self.log.append({"epoch": epoch, "caption_loss": round(loss, 4), "validation_correct": report.correct})
        bar.write(f"epoch {epoch}: caption loss {loss:.3f}, {report.correct:.1%} of captions without a wrong fact")


def standardised(images: Tensor) -> Tensor:
    """Return uint8 images [B, 3, S, S] as the encoder's preprocessing would give them."""
    mean = torch.tensor(PREPROCESSING.mean).view(3, 1, 1)
    std = torch.tensor(PREPROCESSING.std).view(3, 1, 1)
    return ((images / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def replay_examples(captioner: Captioner, examples: SceneExamples, options: SceneTraining) -> list[CaptionedFeatures]:
    """Return captions of the first training scenes with their features, one per scene."""
    kept = range(min(options.replay, len(examples)))
    features = captioner.encoder(standardised(examples.images[: len(kept)])).half()
    return [CaptionedFeatures(features=features[scene], caption=examples.captions[scene][0]) for scene in kept]


def print_report(report: FactReport, version: str) -> None:
    for caption, wrong in report.examples[:10]:
        print(f"  {caption}: {'; '.join(wrong)}")
    print(json.dumps({"version": version, "correct": report.correct, "complete": report.complete}))


if __name__ == "__main__":
    raise SystemExit(main())
