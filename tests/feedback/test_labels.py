"""Labels that a judge gives to pairs."""

from concordant.data.dialogue import Message
from concordant.data.records import Pair
from concordant.feedback.labels import labelled

PAIR = Pair((Message("user", "Hello?"),), "yes", "no", margin=2.0, probability=0.9)


def test_the_labels_of_the_data_are_replaced_by_the_judges():
    kept, turned = labelled(PAIR, 0.5, margin=3.0), labelled(PAIR, -1.0, margin=3.0)
    assert (kept.chosen, kept.rejected, kept.margin, kept.probability) == ("yes", "no", 1.5, None)
    assert (turned.chosen, turned.rejected, turned.margin, turned.probability) == ("no", "yes", 3.0, None)
    assert labelled(PAIR, 0.5, margin=0.0).margin is None
