"""A scaffold for the encoder's training: each region also names the group it shows. Taken away afterwards.

Captions alone teach a network from scratch slowly, because it must find out where to look before it can
learn what it sees. The scaffold's losses come from the scene graph, on the training scenes only.

Shapes:  B batch   P regions   D feature size
"""

from torch import Tensor, nn
from torch.nn.functional import cross_entropy, smooth_l1_loss

from backend.demo.scenes.scene import COLOURS, GROUNDS, MAX_COUNT, PATTERNS, SHAPES, SIZES
from recipes.scenes.scene_examples import OVERLAPS

FACT_CLASSES = (len(SHAPES), len(COLOURS), len(SIZES), MAX_COUNT, len(OVERLAPS))
GROUND_CLASSES = (len(GROUNDS), len(PATTERNS))


class Scaffold(nn.Module):
    """Linear readers of the features: per region the group's facts and box, per image the background."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.group = nn.Linear(features, 2 + sum(FACT_CLASSES) + 4)
        self.ground = nn.Linear(features, sum(GROUND_CLASSES))

    def forward(self, features: Tensor, cells: Tensor, facts: Tensor, boxes: Tensor, grounds: Tensor) -> Tensor:
        """Return the mean loss of all readers.

        Args:
            features: [B, P, D].
            cells: which group each region shows, [B, P]; -1 for none.
            facts: class numbers of each group, [B, 3, 5].
            boxes: of each group, [B, 3, 4].
            grounds: class numbers of the background, [B, 2].
        """
        read = self.group(features)  # [B, P, 2 + classes + 4]
        shows = cells >= 0
        loss: Tensor = cross_entropy(read[..., :2].flatten(0, 1), shows.flatten().long())
        image, region = shows.nonzero(as_tuple=True)
        group = cells[image, region]
        *fact_scores, box = read[image, region, 2:].split([*FACT_CLASSES, 4], dim=-1)
        for fact, scores in enumerate(fact_scores):
            loss = loss + cross_entropy(scores, facts[image, group, fact])
        loss = loss + 20 * smooth_l1_loss(box, boxes[image, group], beta=0.1)
        ground_scores = self.ground(features.mean(dim=1)).split(GROUND_CLASSES, dim=-1)
        for fact, scores in enumerate(ground_scores):
            loss = loss + 0.5 * cross_entropy(scores, grounds[:, fact])
        return loss
