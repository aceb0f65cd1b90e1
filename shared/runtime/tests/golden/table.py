"""Makes the golden values of tables beside this file, with the library that defines scaling and codes.

    python3 -m venv venv && venv/bin/pip install scikit-learn==1.9.1
    venv/bin/python table.py

`table.csv` is made by a formula. Each NAME.f32 holds little-endian floats, a row of the tensor after the other;
`table.rs` has the description that must give the same.
"""

import csv
import datetime
import math
import pathlib

import numpy as np
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

HERE = pathlib.Path(__file__).parent
ROWS = 40


def rows():
    state = 1
    for index in range(ROWS):
        state = (state * 1664525 + 1013904223) % 2**32
        made = datetime.datetime(2019, 12, 27, 5, 30) + datetime.timedelta(hours=37 * index * index % 25000)
        yield {
            "temperature": "" if index % 13 == 5 else f"{(state >> 16) % 4000 / 100 - 10:.2f}",
            "pressure": str(98000 + (state >> 8) % 5000),
            "constant": "0.1",
            "valve": ["open", "half, or so", "shut"][(state >> 20) % 3],
            "code": str([3, 20, 100][(state >> 24) % 3]),
            "made": made.strftime("%Y-%m-%dT%H:%M:%S"),
            "loud": ["yes", "no"][(state >> 28) % 2],
            "fault": str(int(index % 4 == 0)),
        }


table = list(rows())
with open(HERE / "table.csv", "w", newline="") as file:
    writer = csv.DictWriter(file, list(table[0]))
    writer.writeheader()
    writer.writerows(table)


def write(name, parts):
    values = np.ascontiguousarray(np.concatenate(parts, axis=1), dtype="<f4")
    (HERE / f"{name}.f32").write_bytes(values.tobytes())
    print(f"{name}: {values.shape}, {values.min():.4f} to {values.max():.4f}")


def numbers(name):
    return np.array([[float(row[name] or "nan")] for row in table])


def texts(name):
    return np.array([[row[name]] for row in table], dtype=object)


def cycle(value, period):
    return [math.sin(2 * math.pi * value / period), math.cos(2 * math.pi * value / period)]


scaled = lambda values: np.nan_to_num(StandardScaler().fit_transform(values))
one_hot = lambda name: OneHotEncoder(sparse_output=False).fit_transform(texts(name))
dates = [datetime.datetime.fromisoformat(row["made"]).replace(tzinfo=datetime.timezone.utc) for row in table]
loud = np.array([[float(row["loud"] == "yes")] for row in table])

# What is learnt when nobody says anything, without the last column.
write("table_learnt", [
    scaled(numbers("temperature")), scaled(numbers("pressure")), scaled(numbers("constant")), one_hot("valve"),
    scaled(numbers("code")),
    scaled(np.array([[date.year] for date in dates])),
    np.array([cycle(date.month, 12) + cycle(date.weekday(), 7) + cycle(date.hour, 24) for date in dates]),
    scaled(np.array([[date.timestamp()] for date in dates])),
    loud,
])

# Codes learnt from a part of the values, and every part of a date.
known = np.array([["shut"], ["open"]], dtype=object)
order = [["shut", "open"]]
ordinal = OrdinalEncoder(categories=order, handle_unknown="use_encoded_value", unknown_value=-1).fit(known)
zeros = OneHotEncoder(categories=order, handle_unknown="ignore", sparse_output=False).fit(known)
code = OrdinalEncoder(categories=[["100", "20", "3"]]).fit(texts("code"))
write("table_coded", [
    ordinal.transform(texts("valve")), code.transform(texts("code")), np.clip(numbers("pressure"), 99000, 101000) / 1000,
    np.array([
        [date.month, date.day, date.weekday(), date.hour, date.timetuple().tm_yday, *cycle(date.day, 31),
         *cycle(date.timetuple().tm_yday, 365.25)]
        for date in dates
    ]),
])
write("table_zeros", [zeros.transform(texts("valve"))])
