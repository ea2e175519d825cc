"""Segment the objects that expressions refer to, with MindSpore Lite. Needs only the other .py files of its directory.

    python lite_predict.py --model coupalign.mindir --vocab vocab.txt --image street.jpg --expression "man in red"
    python lite_predict.py --model coupalign.mindir --vocab vocab.txt --image photos --expressions list.jsonl

A line of list.jsonl is {"image": NAME, "expression": TEXT}; list.csv has columns of these names. Images are relative to
the directory --image, or to the file. Without images, every expression is evaluated on every --image.

For each image and expression the program writes a .mask.png, an .overlay.png and a .json, and prints a line of JSON. An
image that cannot be read is reported and skipped, and the exit status is then 2. The same command continues where it
was interrupted. A model with an existence output adds the probability that something fits; if it is too low, the mask
is empty. export.py writes the .mindir and the .json beside it.
"""

import argparse
import ctypes

import numpy as np
import predict_files
from model_inputs import ModelInputs, RequestError


class LiteModel(ModelInputs):
    """A .mindir of export.py, with the .json beside it, and the vocabulary of its training. Raises: RequestError."""

    def __init__(self, model, vocab, device="CPU", device_id=0, threads=2):
        super().__init__(model, vocab)
        if device == "CPU" and self.description["device"] != "CPU" and threads > 1:
            raise RequestError(
                f"{model} was not exported for CPU: pass --threads 1, or export it with --export_for CPU"
            )
        self._model = _build(model, self.description["versions"], device, device_id, threads)

    def outputs(self, image, token_ids, token_mask):
        """Returns all outputs of the graph for a batch. Raises: RequestError."""
        tensors = self._model.get_inputs()
        for tensor, array in zip(tensors, (image, token_ids, token_mask)):
            if list(tensor.shape) != list(array.shape):
                raise RequestError(f"the model's input is {tensor.shape}, not {array.shape}: export the model again")
            tensor.set_data_from_numpy(np.ascontiguousarray(array))
        return [output.get_data_to_numpy() for output in self._model.predict(tensors)]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="FILE", help="exported graph (.mindir)")
    parser.add_argument("--vocab", required=True, metavar="FILE", help="vocabulary of the training")
    predict_files.add_arguments(parser)
    parser.add_argument("--device", choices=("CPU", "Ascend"), default="CPU")
    parser.add_argument("--device_id", type=int, default=0, help="number of the Ascend device (default: 0)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")

    def load(args):
        return LiteModel(args.model, args.vocab, args.device, args.device_id, args.threads)

    return predict_files.main(parser, argv, load)


def _build(path, versions, device, device_id, threads):
    import mindspore_lite

    context = mindspore_lite.Context()
    context.target = [device.lower()]
    context.cpu.thread_num = threads
    if device == "Ascend":
        context.ascend.device_id = device_id
    model = mindspore_lite.Model()
    try:
        model.build_from_file(str(path), mindspore_lite.ModelType.MINDIR, context)
    except RuntimeError as error:
        reason = load_failure(versions["mindspore"], mindspore_lite.__version__, device)
        raise RequestError(f"MindSpore Lite cannot load {path} on {device}: {reason}") from error
    return model


def load_failure(exporter, lite, device):
    """Returns why MindSpore Lite of version `lite` cannot load a model of MindSpore `exporter`; Lite does not say it."""
    if device == "Ascend":
        try:
            ctypes.CDLL("libgraph.so")
        except OSError as error:
            return f"CANN is not available ({error}): install it and source its set_env.sh"
    if exporter.split(".")[:2] != lite.split(".")[:2]:
        return f"Lite {lite} cannot read files of MindSpore {exporter}: run export.py with MindSpore {lite}"
    return "the file is damaged, or not a MindIR: copy or export it again"


if __name__ == "__main__":
    raise SystemExit(main())
