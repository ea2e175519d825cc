"""Segment the objects that expressions refer to, with ONNX Runtime. Needs only the other .py files of its directory.

    python onnx_predict.py --model coupalign.onnx --vocab vocab.txt --image street.jpg --expression "man in red"
    python onnx_predict.py --model coupalign.onnx --vocab vocab.txt --image photos --expressions list.jsonl

Arguments, files and printed lines are those of lite_predict.py. export.py --file_format ONNX writes the .onnx and the
.json beside it.
"""

import argparse
import os

import predict_files
from model_inputs import ModelInputs, RequestError


class OnnxModel(ModelInputs):
    """An .onnx of export.py, with the .json beside it, and the vocabulary of its training. Raises: RequestError."""

    def __init__(self, model, vocab, threads=2):
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime reads it when it is imported
        import onnxruntime

        super().__init__(model, vocab)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # otherwise the error line is lost in the runtime's log
        try:
            self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's errors have no common class
            reason = "the file is damaged, or not an ONNX graph: copy or export it again"
            raise RequestError(f"ONNX Runtime {onnxruntime.__version__} cannot load {model}: {reason}") from error
        self._names = [each.name for each in self._session.get_inputs()]

    def outputs(self, *inputs):
        """Returns all outputs of the graph for a batch."""
        return self._session.run(None, dict(zip(self._names, inputs)))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="FILE", help="exported graph (.onnx)")
    parser.add_argument("--vocab", required=True, metavar="FILE", help="vocabulary of the training")
    predict_files.add_arguments(parser)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    return predict_files.main(parser, argv, lambda args: OnnxModel(args.model, args.vocab, args.threads))


if __name__ == "__main__":
    raise SystemExit(main())
