"""Which panels curves.png has."""

from jaxsd.training.curves import MOST_PANELS, PANELS, _panels

TRAINING = {"step": 0, "time": 1.0, "loss": 0.13, "denoise": 0.1, "contrastive": 2.0, "gradient_norm": 1.0, "mfu": 0.4}
VALIDATION = {
    "step": 0,
    "time": 1.0,
    "validation_loss": 4.28,
    "validation_chance": 13.8,
    "validation_denoise": 0.08,
    "validation_denoise_unconditional": 0.079,
    "validation_R@10_a2t": 0.3,
}


def test_a_panel_has_one_quantity_and_constants_are_lines():
    panels = _panels({*TRAINING, *VALIDATION}, [TRAINING, VALIDATION])
    together = [set(panel.curves.values()) & {*TRAINING, *VALIDATION} for panel in panels]
    assert {"denoise", "validation_denoise"} in together  # the same loss
    assert {"loss"} in together and {"validation_loss"} in together  # of a training, and the paper's
    drawn = set().union(*together)
    assert not drawn & {"validation_chance", "validation_denoise_unconditional", "mfu", "time"}
    assert {key for panel in panels for key, _ in panel.lines.values()} >= {"validation_chance"}


def test_there_are_at_most_a_dozen_panels():
    many = TRAINING | {f"figure {number}": 1.0 for number in range(30)}
    panels = _panels({*many, *VALIDATION}, [many, VALIDATION])
    assert len(panels) == MOST_PANELS == 12
    assert panels[0].title == "loss, training"
    shown = [panel for panel in PANELS if {*panel.curves.values()} & {*VALIDATION}]
    assert all(panel in panels for panel in shown), "validation matters more than the parts of a loss"
