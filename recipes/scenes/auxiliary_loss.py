"""An auxiliary loss for the encoder's training: each region must also show the group of objects in it.

Captions alone teach a new network slowly, because it must learn where to look before it can learn what is there. The
targets of this loss come from the scene graphs of the training scenes. The layers are not part of the bundle.

Shapes:  B batch   P regions   D feature size
"""

from torch import Tensor, nn
from torch.nn.functional import cross_entropy, smooth_l1_loss

from backend.demo.scenes.scene import COLOURS, GROUNDS, MAX_COUNT, PATTERNS, SHAPES, SIZES
from recipes.scenes.scene_examples import OVERLAPS

FACT_CLASSES = (len(SHAPES), len(COLOURS), len(SIZES), MAX_COUNT, len(OVERLAPS))
GROUND_CLASSES = (len(GROUNDS), len(PATTERNS))


class AuxiliaryLoss(nn.Module):
    """Linear layers on the features that predict each region's group and box, and each image's background."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.group = nn.Linear(features, 2 + sum(FACT_CLASSES) + 4)
        self.ground = nn.Linear(features, sum(GROUND_CLASSES))

    def forward(self, features: Tensor, cells: Tensor, facts: Tensor, boxes: Tensor, grounds: Tensor) -> Tensor:
        """Return the weighted sum of all losses.

        Args:
            features: [B, P, D].
            cells: number of the group that each region shows, [B, P]; -1 for none.
            facts: class numbers of each group, [B, 3, 5].
            boxes: of each group, [B, 3, 4].
            grounds: class numbers of the background, [B, 2].
        """
        predictions = self.group(features)  # [B, P, 2 + classes + 4]
        shows = cells >= 0
        loss: Tensor = cross_entropy(predictions[..., :2].flatten(0, 1), shows.flatten().long())
        image, region = shows.nonzero(as_tuple=True)
        group = cells[image, region]
        *fact_scores, box = predictions[image, region, 2:].split([*FACT_CLASSES, 4], dim=-1)
        for fact, scores in enumerate(fact_scores):
            loss = loss + cross_entropy(scores, facts[image, group, fact])
        loss = loss + 20 * smooth_l1_loss(box, boxes[image, group], beta=0.1)
        ground_scores = self.ground(features.mean(dim=1)).split(GROUND_CLASSES, dim=-1)
        for fact, scores in enumerate(ground_scores):
            loss = loss + 0.5 * cross_entropy(scores, grounds[:, fact])
        return loss
