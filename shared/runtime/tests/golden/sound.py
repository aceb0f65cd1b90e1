"""Makes the golden values of sound front ends beside this file, with the libraries that define them.

    python3 -m venv venv && venv/bin/pip install librosa==0.11.0 soundfile==0.14.0 pymicro-features==2.0.2 tensorflow-cpu==2.21.0
    venv/bin/python sound.py

Each NAME.f32 holds little-endian floats; `sound_golden.rs` has the description that must give the same. Signals are
made by a formula, here and there.
"""

import os
import pathlib

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import librosa
import numpy as np
import scipy.signal
import soundfile
import tensorflow as tf
from pymicro_features import MicroFrontend
from tensorflow.lite.experimental.microfrontend.python.ops import audio_microfrontend_op

HERE = pathlib.Path(__file__).parent


def signal(samples, rate):
    """A chirp, a tone and noise, as integers of 16 bits."""
    t = np.arange(samples) / rate
    length = samples / rate
    chirp = 9000 * np.sin(2 * np.pi * (200 * t + (0.4 * rate - 200) * t * t / (2 * length)))
    tone = 3000 * np.sin(2 * np.pi * 440 * t)
    noise, state = np.empty(samples, int), 1
    for index in range(samples):
        state = (state * 1664525 + 1013904223) % 2**32
        noise[index] = (state >> 20) - 2048
    return (np.floor(chirp + tone + 0.5).astype(int) + noise).astype(np.int16)


def write(name, values):
    values = np.ascontiguousarray(values, dtype="<f4")
    (HERE / f"{name}.f32").write_bytes(values.tobytes())
    print(f"{name}: {values.shape}, {values.min():.4f} to {values.max():.4f}")


def floats(samples):
    return samples.astype(np.float32) / 32768


second = signal(16000, 16000)
y = floats(second)

# librosa, with its defaults of window, scale and padding.
mel = librosa.feature.melspectrogram(
    y=y, sr=16000, n_fft=512, win_length=400, hop_length=160, n_mels=40, fmin=20, fmax=8000
)
write("librosa_db", librosa.power_to_db(mel).T)

mel = librosa.feature.melspectrogram(
    y=y, sr=16000, n_fft=1024, hop_length=400, window="hamming", center=False, power=1.0, n_mels=64, htk=True, norm=None
)
write("librosa_htk", np.log(mel + 1e-3).T)

mel = librosa.feature.melspectrogram(
    y=y, sr=16000, n_fft=600, win_length=501, hop_length=200, window=scipy.signal.get_window("hann", 501, fftbins=False),
    pad_mode="reflect", n_mels=32, fmin=100, fmax=7000,
)
write("librosa_loudest", librosa.power_to_db(mel, ref=np.max, amin=1e-8, top_db=40).T)

write("librosa_mfcc", librosa.feature.mfcc(y=y, sr=16000, n_mfcc=13, n_fft=512, hop_length=256, n_mels=40, lifter=22).T)

# tf.signal, as MLPerf Tiny's keyword spotting uses it.
loud = tf.constant(y / y.max())
spectrum = tf.abs(tf.signal.stft(loud, 480, 320, None, tf.signal.hann_window))
weights = tf.signal.linear_to_mel_weight_matrix(40, 257, 16000, 20.0, 4000.0)
mfcc = tf.signal.mfccs_from_log_mel_spectrograms(tf.math.log(spectrum @ weights + 1e-6))
write("keywords", mfcc[:, :10].numpy())

# MLPerf Tiny's machine noise, every 20th row.
y = floats(signal(160000, 16000))
mel = librosa.feature.melspectrogram(y=y, sr=16000, n_fft=1024, hop_length=512, n_mels=128, power=2.0, pad_mode="reflect")
log = (10.0 * np.log10(mel + np.finfo(float).eps))[:, 50:250]
rows = np.concatenate([log[:, t : t + 196].T for t in range(5)], axis=1)
write("toy_car", rows[::20])

# The micro front end: the operator of TensorFlow, and the library that Home Assistant uses.


def micro(samples, *args, **kwargs):
    return audio_microfrontend_op.audio_microfrontend(tf.constant(samples), *args, **kwargs)


write("micro", micro(second, 16000, 30, 20, 40, enable_pcan=True).numpy())
write("micro_plain", micro(second, 16000, 25, 10, 32, enable_pcan=False).numpy()[::2])
write("micro_linear", micro(second // 64, 16000, 64, 40, 24, 3800.0, 60.0, enable_pcan=False, enable_log=False).numpy())
write("micro_short", micro(signal(8000, 8000), 8000, 4, 4, 6, 3000.0, 500.0, smoothing_bits=8, even_smoothing=0.1,
                           odd_smoothing=0.3, min_signal_remaining=0.2, pcan_strength=0.5, pcan_offset=10.0,
                           gain_bits=19, scale_shift=4).numpy())
front, left, features = MicroFrontend(), second.tobytes(), []
while left:
    out = front.process_samples(left)
    left = left[2 * out.samples_read :]
    if out.features:
        features.append(out.features)
write("micro_library", np.array(features)[::2])

# Packed recordings, of two channels of which the mean is the signal.
part = floats(signal(4000, 16000))
stereo = np.stack([part * 1.5, part * 0.5], axis=1)
soundfile.write(HERE / "chirp.flac", stereo, 16000, subtype="PCM_16")
soundfile.write(HERE / "chirp.ogg", stereo, 16000, subtype="VORBIS")
soundfile.write(HERE / "chirp.mp3", stereo, 16000, subtype="MPEG_LAYER_III")
# More samples than any recording may have.
soundfile.write(HERE / "silence.flac", np.zeros(8 * 2**20 + 1, np.int16), 48000, subtype="PCM_16")
