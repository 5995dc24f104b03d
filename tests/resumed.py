"""A run put back from its files after two rounds, beside the one that was never stopped."""

from torch.testing import assert_close

from isogram import federation
from isogram.checkpoint import alignment_state, final_model, restore_alignment, restore_round, round_state
from isogram.model import SavedModel
from isogram.tensor_file import read_tensors, write_tensors


def put_back(folder, data, config):
    """The federation straight through three rounds and the one put back, equal to the bit; the model saved of it."""
    aligned = federation.align(data, config)
    straight = federation.train(aligned)
    stopped = federation.start_training(aligned)
    for _ in range(2):
        stopped = federation.train_round(stopped)
    write_tensors(folder / "0", alignment_state(aligned), {})
    write_tensors(folder / "n", round_state(stopped), {})
    again = restore_alignment(federation.gather(data, config), read_tensors(folder / "0")[0])
    assert sorted(again.heads) == sorted(aligned.heads)
    position = {"round": 2, "history": stopped.history, "refused": []}
    again = federation.train_round(restore_round(again, read_tensors(folder / "n")[0], position))
    expected = round_state(straight)
    assert round_state(again).keys() == expected.keys()
    for name, value in round_state(again).items():
        assert_close(value, expected[name], rtol=0, atol=0, equal_nan=True)
    final_model(straight, data).save(folder / "model")
    return straight, again, SavedModel.load(folder / "model")
