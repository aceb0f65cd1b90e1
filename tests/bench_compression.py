"""What tests/bench-compression measures: see there."""

import io
import json
import math
import os
import subprocess
import sys
import wave
import zipfile
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import onnx
import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from PIL import Image

DATA = Path(os.environ["FLOTILLA_TEST_DATA"])
CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@dataclass
class Case:
    """A model, what it is calibrated on and what it is measured on."""

    file: str
    calibration: np.ndarray
    samples: np.ndarray
    # With labels accuracy is measured, else fidelity to the float model.
    labels: np.ndarray | None = None
    classifier: bool = True
    # What may be lost, in the unit of the metric, and the share of the bytes that is aimed at.
    max_drop: float = 0.003
    goal: float = 0.30
    # Samples on which each layer is tried alone.
    layer_samples: int = 16


# === samples ===


def pictures(archive, part, size, each):
    """Pictures of a part of an archive, and the index of the folder that each lies in."""
    found, labels = [], []
    with zipfile.ZipFile(DATA / "images" / archive) as files:
        names = sorted(n for n in files.namelist() if n.endswith(".jpg") and f"/{part}/" in f"/{n}")
        classes = sorted({n.split("/")[-2] for n in names})
        for name in names[::each]:
            picture = Image.open(io.BytesIO(files.read(name))).convert("RGB")
            found.append(np.asarray(picture if picture.size == size else picture.resize(size), np.float32))
            labels.append(classes.index(name.split("/")[-2]))
    return np.stack(found), np.array(labels)


def photographs(size):
    """The photographs that came with the models, five of them with faces."""
    found = []
    with zipfile.ZipFile(DATA / "models" / "sample-inputs.zip") as files:
        for name in sorted(n for n in files.namelist() if n.endswith(".jpg")):
            picture = Image.open(io.BytesIO(files.read(name))).convert("RGB").resize(size)
            found += [np.asarray(p, np.float32) for p in (picture, picture.transpose(Image.FLIP_LEFT_RIGHT))]
    return np.stack(found)


def digits():
    import gzip

    folder = DATA / "images" / "mnist-t10k"
    images = gzip.open(folder / "t10k-images-idx3-ubyte.gz").read()[16:]
    labels = gzip.open(folder / "t10k-labels-idx1-ubyte.gz").read()[8:]
    images = np.frombuffer(images, np.uint8).astype(np.float32).reshape(-1, 1, 28, 28)
    return images, np.frombuffer(labels, np.uint8).astype(np.int64)


def mfcc(sound, rate=16000):
    """10 cepstral coefficients of 40 mel bands over 30 ms each 20 ms, scaled as in MLPerf Tiny's feature extraction."""
    length, step, bins = 480, 320, 512
    frames = np.stack([sound[i : i + length] for i in range(0, len(sound) - length + 1, step)])[:49]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    spectrum = np.abs(np.fft.rfft(frames * window, bins))
    mel = lambda f: 1127 * np.log1p(f / 700)
    edges = np.linspace(mel(20), mel(4000), 42)
    places = mel(np.arange(1, bins // 2 + 1) * rate / bins)
    up = (places[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    down = (edges[2:] - places[:, None]) / (edges[2:] - edges[1:-1])
    weights = np.vstack([np.zeros(40), np.maximum(0, np.minimum(up, down))])
    bands = np.log(spectrum @ weights + 1e-6)
    cosines = np.cos(np.pi / 40 * (np.arange(40)[:, None] + 0.5) * np.arange(10)) * np.sqrt(2 / 40)
    return (bands @ cosines).astype(np.float32)[:, :, None]


def clips(each):
    """Spoken digits, which are no words of the model's: enough to see whether it still says the same."""
    found = []
    with zipfile.ZipFile(DATA / "sound" / "fsdd-recordings.zip") as files:
        for name in sorted(n for n in files.namelist() if n.endswith(".wav"))[::each]:
            with wave.open(io.BytesIO(files.read(name))) as sound:
                samples = np.frombuffer(sound.readframes(sound.getnframes()), np.int16) / 32768
                rate = sound.getframerate()
            places = np.arange(int(len(samples) * 16000 / rate)) * rate / 16000
            samples = np.interp(places, np.arange(len(samples)), samples)[:16000]
            found.append(mfcc(np.pad(samples, (0, 16000 - len(samples)))))
    return np.stack(found)


def windows():
    """Five neighbouring frames each of one recording of a toy car."""
    with zipfile.ZipFile(DATA / "models" / "sample-inputs.zip") as files:
        name = next(n for n in files.namelist() if n.endswith(".bin"))
        frames = np.frombuffer(files.read(name), "<f4").reshape(200, 128)
    return np.stack([frames[i : i + 5].reshape(-1) for i in range(196)])


def cases(wanted, quick):
    """The models that are measured, each with samples of its own for calibration."""
    each = 4 if quick else 1
    tiny = "mlperf-tiny/"
    nchw = lambda x: np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    if "resnet8" in wanted:
        test, labels = pictures("cifar10-subset.zip", "test", (32, 32), each)
        train, _ = pictures("cifar10-subset.zip", "train", (32, 32), 47)
        yield "resnet8", Case(tiny + "ic_resnet8_float.onnx", train, test, labels)
    if "dscnn" in wanted:
        sounds = clips(2 * each)
        yield "dscnn", Case(tiny + "kws_dscnn_float.onnx", sounds[::12], np.delete(sounds, np.s_[::12], 0))
    if "vww" in wanted:
        small, _ = pictures("cifar10-subset.zip", "test", (96, 96), 2 * each)
        flowers, _ = pictures("flowers-subset.zip", "train", (96, 96), 2)
        people = photographs((96, 96)) / 255
        calibration = np.concatenate([flowers / 255, small[::20] / 255])
        samples = np.concatenate([people, np.delete(small, np.s_[::20], 0) / 255])
        yield "vww", Case(tiny + "vww_mobilenetv1_float.onnx", calibration, samples, goal=0.36)
    if "autoencoder" in wanted:
        sound = windows()
        yield "autoencoder", Case(
            tiny + "ad_autoencoder_float.onnx", sound[:98], sound[98:], classifier=False, max_drop=0.01
        )
    if "mnist" in wanted:
        images, labels = digits()
        yield "mnist", Case("mnist.onnx", images[:200], images[200::each], labels[200::each], goal=0.5)
    if "ultraface" in wanted or "yunet" in wanted:
        size = (320, 240)
        flowers, _ = pictures("flowers-subset.zip", "train", size, 4)
        others, _ = pictures("flowers-subset.zip", "val", size, each)
        if "ultraface" in wanted:
            faces = np.concatenate([photographs(size), others])
            scale = lambda x: nchw((x - 127) / 128)
            yield "ultraface", Case(
                "ultraface-RFB-320.onnx", scale(flowers[:24]), scale(faces), classifier=False, max_drop=0.01, layer_samples=2
            )
        if "yunet" in wanted:
            square = lambda x: nchw(np.pad(x, ((0, 0), (0, 80), (0, 0), (0, 0)))[..., ::-1])
            faces = np.concatenate([photographs(size), others])
            yield "yunet", Case(
                "yunet_n_320_320.onnx", square(flowers[:24]), square(faces), classifier=False, max_drop=0.01, goal=0.45, layer_samples=2,
            )


# === models ===


class Reader(CalibrationDataReader):
    def __init__(self, name, samples):
        self.feeds = iter([{name: sample[None]} for sample in samples])

    def get_next(self):
        return next(self.feeds, None)


def session(path):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def by_onnxruntime(source, out, name, calibration):
    """ONNX Runtime's static quantisation: QDQ, a scale a channel, 8-bit weights and activations."""
    prepared = out.with_suffix(".pre.onnx")
    try:
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    except Exception:
        prepared = source
    quantize_static(
        str(prepared),
        str(out),
        Reader(name, calibration),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def outputs(path, samples):
    run = session(path)
    name = run.get_inputs()[0].name
    return np.stack([np.concatenate([o.ravel() for o in run.run(None, {name: s[None]})]) for s in samples])


def value(case, reference, found):
    """The figure of each sample, of which the metric is the mean."""
    if case.labels is not None:
        return (found.argmax(1) == case.labels).astype(float)
    if case.classifier:
        return (found.argmax(1) == reference.argmax(1)).astype(float)
    error = np.linalg.norm(found - reference, axis=1) / np.linalg.norm(reference, axis=1)
    return np.maximum(0, 1 - error)


def interval(case, before, after):
    """95 % interval of what is lost: Agresti and Min's for hits, else the normal one of paired differences."""
    n = len(before)
    if case.labels is not None or case.classifier:
        lost, won = ((before > after).sum() + 0.5, (after > before).sum() + 0.5)
        n += 2
        middle = (lost - won) / n
        half = 1.96 * math.sqrt(lost + won - (lost - won) ** 2 / n) / n
    else:
        difference = before - after
        middle, half = difference.mean(), 1.96 * difference.std(ddof=1) / math.sqrt(n)
    return middle - half, middle + half


def main():
    program, folder = sys.argv[1], Path(sys.argv[2])
    arguments = sys.argv[3:]
    quick = "--quick" in arguments
    known = ["resnet8", "dscnn", "vww", "autoencoder", "mnist", "ultraface", "yunet"]
    wanted = [a for a in arguments if not a.startswith("--")] or known
    unknown = [a for a in wanted if a not in known]
    if unknown:
        sys.exit(f"no such model: {', '.join(unknown)}; there are {', '.join(known)}")
    rows, missed = [], []
    for name, case in cases(wanted, quick):
        rows += measure(program, folder, name, case, missed)
    head = ["model", "form", "bytes", "ratio", "metric", "value", "lost, points", "95 %", "tract - ORT", "tract p50 ms", "by float"]
    widths = [max(len(str(row[i])) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        print("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths)).rstrip())
    print("Goals missed: " + ("; ".join(missed) if missed else "none"))


def measure(program, folder, name, case, missed):
    source = DATA / "models" / case.file
    flat = lambda x: np.ascontiguousarray(x, np.float32).tofile
    for part, array in [("samples", case.samples), ("calibration", case.calibration)]:
        flat(array)(folder / f"{name}.{part}")
    shape = ",".join(map(str, (1, *case.samples.shape[1:])))
    judge = "accuracy" if case.labels is not None else "top1" if case.classifier else "outputs"
    common = [f"shape={shape}", f"samples={folder / name}.samples", f"judge={judge}"]
    common.append(f"layer-samples={case.layer_samples}")
    if case.labels is not None:
        np.ascontiguousarray(case.labels, np.uint32).tofile(folder / f"{name}.labels")
        common.append(f"labels={folder / name}.labels")
    models = {"float": folder / f"{name}-float.onnx"}
    models["float"].write_bytes(source.read_bytes())
    forms = [
        ("ours, int8", ["four-bit=never"], True),
        ("ours, int8, no samples", ["four-bit=never"], False),
        ("ours, to 4 bits", ["four-bit=standard"], True),
        ("ours, MatMulNBits", ["four-bit=contrib"], True),
    ]
    for form, more, calibrated in forms:
        out = folder / f"{name}-{form.removeprefix('ours, ').replace(' ', '-').replace(',', '')}.onnx"
        more = more + [f"max-drop={case.max_drop}"] + ([f"calibration={folder / name}.calibration"] if calibrated else [])
        done = subprocess.run([program, "compress", source, out, *common, *more])
        if done.returncode == 0:
            onnx.checker.check_model(onnx.load(out), full_check=True)
            models[form] = out
    quantised = folder / f"{name}-onnxruntime.onnx"
    try:
        by_onnxruntime(source, quantised, session(source).get_inputs()[0].name, case.calibration)
        models["ONNX Runtime, QDQ"] = quantised
    except Exception as error:
        print(f"ONNX Runtime does not quantise {name}: {error}", file=sys.stderr)

    reference = outputs(models["float"], case.samples)
    before = value(case, reference, reference)
    alike = lambda x: np.ascontiguousarray(x, np.float32)
    times, ours = {}, {}
    for batch in [list(models)]:
        done = subprocess.run(
            [program, "run", shape, f"{folder / name}.samples", *(str(models[form]) for form in batch)],
            capture_output=True, text=True,
        )
        if done.returncode != 0:
            # The engine may refuse what ONNX Runtime made.
            batch = [form for form in batch if form != "ONNX Runtime, QDQ"]
            done = subprocess.run(
                [program, "run", shape, f"{folder / name}.samples", *(str(models[form]) for form in batch)],
                capture_output=True, text=True, check=True,
            )
        times.update(zip(batch, json.loads(done.stdout)))
        for form in batch:
            ours[form] = np.fromfile(f"{models[form]}.out", np.float32).reshape(len(case.samples), -1)
    rows, drops = [], {}
    for form, path in models.items():
        found = outputs(path, case.samples)
        after = value(case, reference, found)
        low, high = interval(case, before, after)
        drops[form] = before.mean() - after.mean()
        size, whole = path.stat().st_size, models["float"].stat().st_size
        engines = "-"
        if form in ours:
            apart = value(case, reference, ours[form]).mean() - after.mean()
            engines = f"{100 * apart:+.2f}, {np.abs(ours[form] - alike(found)).max():.1e}"
        rows.append([
            name, form, size, f"{size / whole:.3f}", judge, f"{after.mean():.4f}", f"{100 * drops[form]:+.2f}",
            f"{100 * low:+.2f} to {100 * high:+.2f}", engines,
            f"{times[form]:.3f}" if form in times else "-",
            f"{times[form] / times['float']:.2f}" if form in times else "-",
        ])
        if form.startswith("ours, int8"):
            if size > case.goal * whole:
                missed.append(f"{name} ({form}): {size / whole:.3f} of the bytes, {case.goal} aimed at")
            if drops[form] > case.max_drop:
                missed.append(f"{name} ({form}): {100 * drops[form]:.2f} points lost")
    for form in models:
        if form.startswith("ours, int8") and drops[form] > drops.get("ONNX Runtime, QDQ", 1) + 1e-9:
            missed.append(f"{name} ({form}): loses more than ONNX Runtime's")
    return rows


main()
