"""Training the toy world's models says beforehand what it takes."""

from jaxsd.toy.train_models import train_models


def test_a_dry_run_says_what_is_left_and_trains_nothing(tmp_path, capsys):
    assert train_models(tmp_path / "run", dry_run=True) is None
    assert "vae, judge, clip, unet, human" in (said := capsys.readouterr().out) and "about 2.1 hours" in said
    assert not list(tmp_path.iterdir())
    (tmp_path / "vae.safetensors").write_bytes(b"")
    train_models(tmp_path, dry_run=True)
    assert "to train: judge, clip" in (said := capsys.readouterr().out) and "about 1.6 hours" in said
