"""Train the `scenes` bundle from scratch: `python -m recipes.scenes.train_scenes --out DIR`.

1. Encoder and decoder learn together from drawn scenes, with an auxiliary loss.
2. The encoder is frozen, and the decoder learns alone from stored features, which is several times cheaper.
3. The captioner writes captions for 1,000 unseen scenes, and every claim is checked.

The same seed draws the same scenes in the same order.

Shapes:  B images of a batch   N captions of a batch   T tokens   S image side   P regions   D feature size
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from model.bundle import save_bundle
from model.captioned_features import CaptionedFeatures
from model.decoders.build import build_decoder
from model.decoders.sizes import DecoderSizes
from model.tokenizer import Tokenizer, caption_tokens
from model.torch_captioner import TorchCaptioner
from model.training.batches import padded
from model.training.losses import caption_loss
from model.training.optimization import reduced_precision, take_step, warmup_then_cosine
from model.vision.encoder import Encoder, SceneCNN, freeze
from model.vision.encoder_spec import SCENE_CNN, EncoderSpec
from model.vision.images import Preprocessing
from recipes.scenes.auxiliary_loss import AuxiliaryLoss
from recipes.scenes.scene_evaluation import FactReport, caption_facts
from recipes.scenes.scene_examples import IMAGE_SIZE, SceneExamples, draw_examples, shuffled_batches
from recipes.scenes.scenes_card import model_card

BUNDLE_NAME = "scenes"
PREPROCESSING = Preprocessing(size=IMAGE_SIZE, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
VALIDATION_SEED, VALIDATION_SCENES = 77, 200


@dataclass(frozen=True, kw_only=True)
class SceneTraining:
    """Options of the training."""

    scenes: int = 40_000
    epochs: int = 4
    """Passes over all scenes while encoder and decoder learn together."""
    decoder_epochs: int = 4
    """Passes over all scenes while the decoder learns alone."""
    batch_size: int = 32
    captions_per_image: int = 2
    """Captions of each image in one step; they share the encoder's computation."""
    decoder_captions_per_image: int = 4
    learning_rate: float = 1.5e-3
    weight_decay: float = 1e-3
    warmup_steps: int = 300
    clip_norm: float = 5.0
    dropout: float = 0.0
    auxiliary_weight: float = 0.3
    hidden: int = 256
    embedding: int = 128
    attention: int = 128
    replay: int = 300
    """Captions that the bundle keeps for retraining, so that it does not forget these scenes."""
    unseen: int = 1000
    """Scenes on which the trained captioner is checked."""
    seed: int = 0


def main(argv: Sequence[str] | None = None) -> int:
    options, out = parse_arguments(argv)
    started = time.monotonic()
    torch.manual_seed(options.seed)
    examples = draw_examples(range(options.scenes))
    trainer = SceneTrainer(examples, options)
    trainer.learn_together()
    trainer.learn_decoder()
    captioner = trainer.captioner()
    report = caption_facts(captioner, options.unseen)
    record = {
        "command": " ".join(["python -m recipes.scenes.train_scenes", *(sys.argv[1:] if argv is None else argv)]),
        "options": asdict(options),
        "epochs": trainer.log,
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
    parser = argparse.ArgumentParser(
        prog="python -m recipes.scenes.train_scenes", description="Train the scenes bundle."
    )
    parser.add_argument("--out", type=Path, required=True, help="directory the bundle is written to")
    parser.add_argument("--scenes", type=int, default=defaults.scenes, help="training scenes (default %(default)s)")
    parser.add_argument(
        "--epochs", type=int, default=defaults.epochs, help="of all parts together (default %(default)s)"
    )
    parser.add_argument(
        "--decoder-epochs", type=int, default=defaults.decoder_epochs, help="of the decoder alone (default %(default)s)"
    )
    parser.add_argument("--unseen", type=int, default=defaults.unseen, help="scenes to check (default %(default)s)")
    parser.add_argument("--replay", type=int, default=defaults.replay, help="captions to keep (default %(default)s)")
    parser.add_argument("--seed", type=int, default=defaults.seed, help="default %(default)s")
    arguments = vars(parser.parse_args(argv))
    out = arguments.pop("out")
    return SceneTraining(**arguments), out


class SceneTrainer:
    """Trains encoder, decoder and the layers of the auxiliary loss."""

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
        self.decoder = build_decoder(sizes, dropout=options.dropout)
        self.auxiliary_loss = AuxiliaryLoss(self.encoder.feature_size)
        self.networks = nn.ModuleList([self.encoder, self.decoder, self.auxiliary_loss])
        self.order = torch.Generator().manual_seed(options.seed)
        self.picks = random.Random(options.seed)
        self.log: list[dict[str, float | str]] = []

    def learn_together(self) -> None:
        """Train all parts; after each epoch the captions of some unseen scenes are checked."""
        self._run("together", self.networks, self._loss_together, self.options.epochs)

    def learn_decoder(self) -> None:
        """Freeze the encoder and train the decoder on its stored features."""
        freeze(self.encoder)
        features = encode_all(self.encoder, self.examples)  # [scenes, P, D] half

        def loss_of_decoder(batch: Tensor) -> Tensor:
            return self._caption_loss(features[batch].float(), batch, self.options.decoder_captions_per_image)

        self._run("decoder", self.decoder, loss_of_decoder, self.options.decoder_epochs)

    def captioner(self) -> TorchCaptioner:
        return TorchCaptioner(freeze(self.encoder), self.decoder.eval(), self.tokenizer, BUNDLE_NAME)

    def _loss_together(self, batch: Tensor) -> Tensor:
        """Return the loss of a batch of scene indices [B]."""
        examples = self.examples
        with reduced_precision():
            features = self.encoder(standardised(examples.images[batch])).float()
        targets = (examples.cells[batch], examples.facts[batch], examples.boxes[batch], examples.grounds[batch])
        auxiliary: Tensor = self.auxiliary_loss(features, *targets)
        caption = self._caption_loss(features, batch, self.options.captions_per_image)
        return caption + self.options.auxiliary_weight * auxiliary

    def _caption_loss(self, features: Tensor, batch: Tensor, captions_per_image: int) -> Tensor:
        """Return the mean loss of some captions of each scene, in nats per token."""
        chosen = [self._pick(scene, captions_per_image) for scene in batch.tolist()]
        tokens = padded([caption for few in chosen for caption in few])  # [N, T]
        images = torch.arange(len(chosen)).repeat_interleave(torch.tensor([len(few) for few in chosen]))
        with reduced_precision():
            logits = self.decoder(features, tokens, images)
        return caption_loss(logits.float(), tokens, torch.ones(len(tokens)))

    def _pick(self, scene: int, count: int) -> list[list[int]]:
        captions = self.tokens[scene]
        return self.picks.sample(captions, min(count, len(captions)))

    def _run(self, phase: str, networks: nn.Module, loss_of: Callable[[Tensor], Tensor], epochs: int) -> None:
        """Train networks for some epochs, with a learning rate that warms up and then falls to 0."""
        options = self.options
        steps = len(self.examples) // options.batch_size * epochs
        optimizer = torch.optim.AdamW(networks.parameters(), options.learning_rate, weight_decay=options.weight_decay)
        schedule = warmup_then_cosine(optimizer, options.warmup_steps, steps)
        with tqdm(total=steps, desc=phase, unit="step", disable=None) as bar:
            for epoch in range(1, epochs + 1):
                networks.train()
                losses = []
                for batch in shuffled_batches(len(self.examples), options.batch_size, self.order):
                    loss = loss_of(batch)
                    take_step(networks, optimizer, loss, options.clip_norm)
                    schedule.step()
                    losses.append(loss.item())
                    bar.set_postfix(epoch=epoch, loss=f"{losses[-1]:.3f}")
                    bar.update()
                bar.write(self._check(phase, epoch, sum(losses) / len(losses)))

    def _check(self, phase: str, epoch: int, loss: float) -> str:
        """Log the epoch with its share of correct captions of unseen scenes, and return it as a line."""
        self.networks.eval()
        captioner = TorchCaptioner(self.encoder, self.decoder, self.tokenizer, BUNDLE_NAME)
        correct = caption_facts(captioner, VALIDATION_SCENES, seed=VALIDATION_SEED, size=160).correct
        self.log.append({"phase": phase, "epoch": epoch, "loss": round(loss, 4), "validation_correct": correct})
        return f"{phase}, epoch {epoch}: loss {loss:.3f}, {correct:.1%} of captions without a wrong fact"


@torch.no_grad()
def encode_all(encoder: Encoder, examples: SceneExamples) -> Tensor:
    """Return the features of all scenes, [N, P, D] half precision."""
    starts = tqdm(range(0, len(examples), 100), desc="encoding", unit="batch", disable=None)
    return torch.cat([encoder(standardised(examples.images[at : at + 100])).half() for at in starts])


def standardised(images: Tensor) -> Tensor:
    """Return uint8 images [B, 3, S, S] in the form of the encoder's preprocessing."""
    mean = torch.tensor(PREPROCESSING.mean).view(3, 1, 1)
    std = torch.tensor(PREPROCESSING.std).view(3, 1, 1)
    return ((images / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def replay_examples(
    captioner: TorchCaptioner, examples: SceneExamples, options: SceneTraining
) -> list[CaptionedFeatures]:
    """Return captions of the first training scenes with their features, one per scene."""
    scenes = range(min(options.replay, len(examples)))
    features = captioner.encoder(standardised(examples.images[: len(scenes)])).half()
    return [CaptionedFeatures(features=features[scene], caption=examples.captions[scene][0]) for scene in scenes]


def print_report(report: FactReport, version: str) -> None:
    for caption, wrong in report.examples[:10]:
        print(f"  {caption}: {'; '.join(wrong)}")
    print(json.dumps({"version": version, "correct": report.correct, "complete": report.complete}))


if __name__ == "__main__":
    raise SystemExit(main())
