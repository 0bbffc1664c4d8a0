"""Captions of our own, and the scores that the reference implementation gives them.

REFERENCE_WORDS, SCORES and SHORT_SCORES are the output of pycocoevalcap 1.2 under OpenJDK 17 on 2026-11-21:
its PTBTokenizer on every caption, then its Bleu(4), Meteor, Rouge and Cider on the words. The same calls are made anew
by tests/integration/test_reference_metrics.py, where the package and Java are.
"""

CAPTIONS = (
    "a brown dog runs across the wet grass",
    "Two men aren't sitting on a long red bench.",
    "a girl in a t-shirt jumps over a puddle",
    'a sign that says "STOP!!"',
    "the boy's kite flies high above the beach",
    "a player wearing number 23 throws the ball",
    "a black/white cat sleeps on the sofa",
    "a man climbs a rock wall",
    "people wait at the U.S. embassy",
    "a café with three empty tables",
)

REFERENCES = (
    ("A brown dog is running across wet grass .", "The dog, which is brown, runs over a lawn.", "a dog's wet run"),
    ("Two men sit on a long , red bench .", "Two old friends aren't talking on a bench.", "They're on the bench"),
    ("A girl wearing a T-shirt jumps over the puddle.", "The girl can't stay dry; she'll be wet.", "girl, mid-jump"),
    ('A sign reading "STOP!!" (in red)', "a stop sign", "There is a sign that says ``stop'' ."),
    (
        "The boys' kites fly high above the beach.",
        "A boy's kite - a red one - is in the air...",
        "o'clock kite rock 'n' roll",
    ),
    ("Player #23 throws a ball at 10:30.", "A pitcher, no. 23, is throwing.", "He cannot miss 1,000 balls"),
    ("A black & white cat is asleep on a couch.", "The cat sleeps, doesn't it?", "a cat on Mr. Smith's sofa etc."),
    ("A climber on a rock wall", "One man climbs the 3-story rock wall", "a man in mid-air, climbing"),
    ("People queue in front of the U.S. embassy.", "A line of people at an embassy in D.C.", "people wait … at a gate"),
    ("A café – nobody's there – with 3 tables", "Three tables’ chairs are “empty”", "an empty cafe at 1/2 price: $5"),
)

SHORT_CAPTIONS = tuple(" ".join(caption.split()[:3]) for caption in CAPTIONS)

REFERENCE_WORDS = (
    ("a brown dog is running across wet grass", "the dog which is brown runs over a lawn", "a dog 's wet run"),
    ("two men sit on a long red bench", "two old friends are n't talking on a bench", "they 're on the bench"),
    ("a girl wearing a t-shirt jumps over the puddle", "the girl ca n't stay dry she 'll be wet", "girl mid-jump"),
    ("a sign reading stop !! -lrb- in red -rrb-", "a stop sign", "there is a sign that says stop"),
    ("the boys kites fly high above the beach", "a boy 's kite a red one is in the air", "o'clock kite rock 'n' roll"),
    ("player # 23 throws a ball at 10:30", "a pitcher no. 23 is throwing", "he can not miss 1,000 balls"),
    ("a black & white cat is asleep on a couch", "the cat sleeps does n't it", "a cat on mr. smith 's sofa etc."),
    ("a climber on a rock wall", "one man climbs the 3-story rock wall", "a man in mid-air climbing"),
    ("people queue in front of the u.s. embassy", "a line of people at an embassy in d.c.", "people wait at a gate"),
    ("a café nobody 's there with 3 tables", "three tables chairs are empty", "an empty cafe at 1/2 price $ 5"),
)
"""Of the references, each with spaces between."""

SCORES = {
    "bleu_1": 0.893333,
    "bleu_2": 0.683580,
    "bleu_3": 0.503233,
    "bleu_4": 0.361045,
    "meteor": 0.363102,
    "rouge_l": 0.655109,
    "cider_d": 1.924726,
}
"""Of the captions."""

SHORT_SCORES = {
    "bleu_1": 0.567117,
    "bleu_2": 0.475227,
    "bleu_3": 0.361162,
    "bleu_4": 0.000062,
    "meteor": 0.179034,
    "rouge_l": 0.490614,
    "cider_d": 1.050288,
}
"""Of the first three words of each caption: too short, and without 4-grams."""
