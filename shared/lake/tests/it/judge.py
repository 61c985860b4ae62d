"""Reads a table as others do and prints what it sees, as JSON. Argument: {"table", "versions", "storage", "append"?}."""

import glob
import json
import os
import sys

import duckdb
import polars
import pyarrow
import pyarrow.parquet
from deltalake import DeltaTable, write_deltalake


def seen(ids, files):
    return {"rows": len(ids), "files": files, "ids": sorted(int(id) for id in ids)}


def of_deltalake(table, version, storage):
    delta = DeltaTable(table, version=version, storage_options=storage)
    dataset = delta.to_pyarrow_dataset()
    return seen(dataset.to_table(columns=["msg_id"])["msg_id"].to_pylist(), len(delta.file_uris()))


def of_polars(table, version, storage, files):
    frame = polars.scan_delta(table, version=version, storage_options=storage).select("msg_id").collect()
    return seen(frame["msg_id"].to_list(), files)


def of_duckdb(table, version, storage, files):
    dataset = DeltaTable(table, version=version, storage_options=storage).to_pyarrow_dataset()
    connection = duckdb.connect()
    connection.register("messages", dataset)
    # Through the partition's values, which only the log has.
    days = connection.execute("select count(*) from messages where year = 2026 and month = 11 and day = 5").fetchall()[0][0]
    ids = [row[0] for row in connection.execute("select msg_id from messages").fetchall()]
    assert days == len(ids), (days, len(ids))
    return seen(ids, files)


def of_protocol(table, version):
    """The log by the letter of the protocol: the last checkpoint at or before the version, then each commit."""
    log = os.path.join(table, "_delta_log")
    checkpoints = [int(os.path.basename(path)[:20]) for path in glob.glob(os.path.join(log, "*.checkpoint.parquet"))]
    base = max((at for at in checkpoints if at <= version), default=-1)
    live = {}
    if base >= 0:
        for action in pyarrow.parquet.read_table(os.path.join(log, f"{base:020}.checkpoint.parquet")).to_pylist():
            if action.get("add") and action["add"]["path"]:
                live[action["add"]["path"]] = json.loads(action["add"]["stats"])
    for at in range(base + 1, version + 1):
        with open(os.path.join(log, f"{at:020}.json"), encoding="utf-8") as commit:
            for line in commit.read().splitlines():
                action = json.loads(line)
                if "add" in action:
                    live[action["add"]["path"]] = json.loads(action["add"]["stats"])
                if "remove" in action:
                    del live[action["remove"]["path"]]
    ids = []
    for path, stats in live.items():
        values = pyarrow.parquet.read_table(os.path.join(table, path), partitioning=None)
        check(stats, values)
        ids += values["msg_id"].to_pylist()
    return seen(ids, len(live))


def check(stats, values):
    """The statistics hold for the rows."""
    assert stats["numRecords"] == values.num_rows, stats
    for column, count in stats["nullCount"].items():
        if column in values.column_names:
            assert count == values[column].null_count, (column, count)
    for column in stats["minValues"]:
        data = [value for value in values[column].to_pylist() if value is not None]
        lowest, highest = stats["minValues"][column], stats["maxValues"][column]
        if hasattr(data[0], "isoformat"):
            data = [value.strftime("%Y-%m-%dT%H:%M:%S.") + f"{value.microsecond:06}" for value in data]
            lowest, highest = lowest.rstrip("Z") + "000", highest.rstrip("Z") + "000"
        assert lowest <= min(data) and max(data) <= highest, (column, lowest, highest)


def main():
    what = json.loads(sys.argv[1])
    table, storage = what["table"], what["storage"]
    answer = {"deltalake": {}, "polars": {}, "duckdb": {}, "protocol": {}}
    for version in what["versions"]:
        first = of_deltalake(table, version, storage)
        answer["deltalake"][version] = first
        answer["polars"][version] = of_polars(table, version, storage, first["files"])
        answer["duckdb"][version] = of_duckdb(table, version, storage, first["files"])
        if not table.startswith("s3://"):
            answer["protocol"][version] = of_protocol(table, version)
    latest = DeltaTable(table, storage_options=storage)
    protocol = latest.protocol()
    answer["protocol_versions"] = [protocol.min_reader_version, protocol.min_writer_version]
    answer["columns"] = [field.name for field in latest.schema().fields]
    if "append" in what:
        row = {"msg_id": [what["append"]]}
        row |= {name: pyarrow.array([value], pyarrow.int32()) for name, value in (("year", 2026), ("month", 11), ("day", 5))}
        write_deltalake(latest, pyarrow.table(row), mode="append", schema_mode="merge")
    print(json.dumps(answer))


main()
