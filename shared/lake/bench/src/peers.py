"""The other engines, and a stopwatch. Each command prints one line of JSON.

versions                            what is installed
rows INPUTS                         how many rows the files of a folder have
measure COMMAND..                   runs a command: CPU seconds, seconds, peak resident bytes
prepare INPUTS TABLE                a Delta table of files, for the engine that takes nothing else
compact ENGINE INPUTS OUTPUT        one engine's compaction: dedupe by msg_id, sort by chatroom and create_time
ingest ENGINE INPUT OUTPUT          one engine's JSONL -> Parquet
check_ingest FILE                   count, and a hash that no order changes
check FOLDER                        the same of all columns of a folder's files
run COMMAND..                       runs a command that prints one line of JSON, and prints that
query ENGINE LAKE RUNS              one engine's answers to the questions about a month, and how long it took for each
order FOLDER                        rows of an id that another row has, and rows that are out of order
"""

import glob
import json
import os
import shutil
import subprocess
import sys
import time

ROW_GROUP = 131_072
LEVEL = 3


def versions():
    import deltalake
    import duckdb
    import polars
    import pyarrow

    engines = [duckdb, polars, pyarrow, deltalake]
    return ", ".join(f"{engine.__name__} {engine.__version__}" for engine in engines)


def rows(inputs):
    import duckdb

    return duckdb.connect().execute(f"SELECT count(*) FROM read_parquet('{inputs}/*.parquet')").fetchone()[0]


def measure(*command):
    start = time.monotonic()
    child = os.posix_spawn(command[0], command, os.environ)
    _, status, used = os.wait4(child, 0)
    if status != 0:
        sys.exit(f"{command} ended with {status}")
    return {
        "cpu_secs": used.ru_utime + used.ru_stime,
        "secs": time.monotonic() - start,
        "peak_bytes": used.ru_maxrss * 1024,
    }


def compact_duckdb(inputs, output):
    import duckdb

    db = duckdb.connect()
    db.execute("SET preserve_insertion_order = false")
    db.execute(f"SET temp_directory = '{os.path.dirname(output)}'")
    db.execute(f"""
        COPY (
            SELECT * FROM read_parquet('{inputs}/*.parquet')
            QUALIFY row_number() OVER (PARTITION BY msg_id ORDER BY received_at) = 1
            ORDER BY chatroom, create_time
        ) TO '{output}' (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL {LEVEL}, ROW_GROUP_SIZE {ROW_GROUP})
    """)


def compact_polars(inputs, output):
    import polars

    # The files are in the order of their arrival, so that the first of each id is the earliest.
    rows = polars.scan_parquet(sorted(glob.glob(f"{inputs}/*.parquet")))
    rows = rows.unique("msg_id", keep="first", maintain_order=True).sort("chatroom", "create_time")
    rows.sink_parquet(output, compression="zstd", compression_level=LEVEL, row_group_size=ROW_GROUP)


def compact_pyarrow(inputs, output):
    import pyarrow
    import pyarrow.dataset
    import pyarrow.parquet

    rows = pyarrow.dataset.dataset(sorted(glob.glob(f"{inputs}/*.parquet"))).to_table()
    # The files are in the order of their arrival, so that the first of each id is the earliest.
    keys = pyarrow.table({"msg_id": rows["msg_id"], "row": pyarrow.array(range(len(rows)), pyarrow.int64())})
    first = keys.group_by("msg_id").aggregate([("row", "min")])["row_min"]
    keys = rows.select(["chatroom", "create_time"]).take(first).append_column("row", first)
    order = keys.sort_by([("chatroom", "ascending"), ("create_time", "ascending")])["row"]
    rows = rows.take(order)
    pyarrow.parquet.write_table(
        rows, output, compression="zstd", compression_level=LEVEL, row_group_size=ROW_GROUP,
        use_dictionary=["chatroom", "chatroom_sender", "from_username", "to_username", "source", "guid", "raw_object"],
    )


def prepare(inputs, table):
    import deltalake

    os.mkdir(table)
    for file in glob.glob(f"{inputs}/*.parquet"):
        shutil.copy(file, table)
    deltalake.convert_to_deltalake(table)
    return len(deltalake.DeltaTable(table).file_uris())


def compact_deltalake(table, output):
    import deltalake

    table = deltalake.DeltaTable(table)
    codec = deltalake.WriterProperties(compression="ZSTD", compression_level=LEVEL, max_row_group_size=ROW_GROUP)
    table.optimize.z_order(["chatroom", "create_time"], writer_properties=codec)
    for number, file in enumerate(table.file_uris()):
        os.link(file, os.path.join(os.path.dirname(output), f"{number:05}.parquet"))


# What is read, and what it is called in the table.
TEXTS = ["from_username", "to_username", "chatroom", "chatroom_sender", "msg_id", "content", "desc", "source"]
INTEGERS = ["msg_type", "create_time", "is_chatroom_msg"]
NAMES = {"desc": "msg_desc", "source": "msg_source"}


def ingest_duckdb(input, output):
    import duckdb

    data = ", ".join([f"\"{name}\" VARCHAR" for name in TEXTS] + [f"{name} BIGINT" for name in INTEGERS])
    texts = ", ".join(f"data.\"{name}\" AS {NAMES.get(name, name)}" for name in TEXTS)
    duckdb.connect().execute(f"""
        COPY (
            SELECT guid, notify_type, {texts}, data.msg_type AS msg_type, data.is_chatroom_msg AS is_chatroom_msg,
                make_timestamptz(data.create_time * 1000000) AS create_time
            FROM read_json('{input}', format = 'newline_delimited',
                columns = {{guid: 'VARCHAR', notify_type: 'BIGINT', data: 'STRUCT({data})'}})
        ) TO '{output}' (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL {LEVEL}, ROW_GROUP_SIZE {ROW_GROUP})
    """)


def ingest_polars(input, output):
    import polars

    data = {name: polars.String for name in TEXTS} | {name: polars.Int64 for name in INTEGERS}
    schema = {"guid": polars.String, "notify_type": polars.Int64, "data": polars.Struct(data)}
    rows = polars.scan_ndjson(input, schema=schema).unnest("data").rename(NAMES)
    time = polars.from_epoch("create_time").dt.cast_time_unit("us").dt.replace_time_zone("UTC").alias("create_time")
    rows.with_columns(time).sink_parquet(output, compression="zstd", compression_level=LEVEL, row_group_size=ROW_GROUP)


def ingest_pyarrow(input, output):
    import pyarrow
    import pyarrow.compute
    import pyarrow.json
    import pyarrow.parquet

    data = [(name, pyarrow.string()) for name in TEXTS] + [(name, pyarrow.int64()) for name in INTEGERS]
    schema = pyarrow.schema([("guid", pyarrow.string()), ("notify_type", pyarrow.int64()), ("data", pyarrow.struct(data))])
    reader = pyarrow.json.open_json(
        input, pyarrow.json.ReadOptions(block_size=4 << 20), pyarrow.json.ParseOptions(explicit_schema=schema)
    )
    writer, held = None, []

    def write():
        nonlocal writer
        table = pyarrow.Table.from_batches(held).flatten()
        held.clear()
        names = [name.removeprefix("data.") for name in table.column_names]
        table = table.rename_columns([NAMES.get(name, name) for name in names])
        micros = pyarrow.compute.multiply(table["create_time"], 1_000_000).cast(pyarrow.timestamp("us", "UTC"))
        table = table.set_column(table.column_names.index("create_time"), "create_time", micros)
        writer = writer or pyarrow.parquet.ParquetWriter(
            output, table.schema, compression="zstd", compression_level=LEVEL,
            use_dictionary=["guid", "from_username", "to_username", "chatroom", "chatroom_sender"],
        )
        writer.write_table(table, row_group_size=ROW_GROUP)

    for batch in reader:
        held.append(batch)
        if sum(map(len, held)) >= ROW_GROUP:
            write()
    if held:
        write()
    writer.close()


def check_ingest(file):
    import duckdb

    columns = ["guid", "notify_type"] + [NAMES.get(name, name) for name in TEXTS + INTEGERS]
    values = ", ".join("epoch_us(create_time)" if name == "create_time" else name for name in columns)
    rows, digest = duckdb.connect().execute(
        f"SELECT count(*), sum(hash({values})::HUGEINT) FROM read_parquet('{file}')"
    ).fetchone()
    return {"rows": rows, "digest": str(digest)}


def check(folder):
    import duckdb

    rows, digest = duckdb.connect().execute(
        f"SELECT count(*), sum(hash(rows)::HUGEINT) FROM read_parquet('{folder}/*.parquet') rows"
    ).fetchone()
    return {"rows": rows, "digest": str(digest)}


def order(folder):
    import duckdb

    db = duckdb.connect()
    repeated = db.execute(
        f"SELECT count(*) - count(DISTINCT msg_id) FROM read_parquet('{folder}/*.parquet')"
    ).fetchone()[0]
    disorder = 0
    for file in sorted(glob.glob(f"{folder}/*.parquet")):
        disorder += db.execute(f"""
            SELECT count(*) FROM (
                SELECT chatroom, create_time, lag(chatroom) OVER place AS room, lag(create_time) OVER place AS time
                FROM read_parquet('{file}', file_row_number = true) WINDOW place AS (ORDER BY file_row_number)
            ) WHERE room > chatroom OR (room = chatroom AND time > create_time)
        """).fetchone()[0]
    return {"repeated": repeated, "disorder": disorder}


def run(*command):
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def questions_duckdb(files, subject):
    import duckdb

    db = duckdb.connect()
    db.execute("SET TimeZone = 'UTC'")
    db.execute("SET parquet_metadata_cache = true")
    table = f"read_parquet({files}, hive_partitioning = true)"
    year, month, day = map(int, subject["day"].split("-"))

    def said(where, *values):
        rows = db.execute(f"SELECT * FROM {table} WHERE {where}", values).fetchall()
        names = [column[0] for column in db.description]
        time, line = names.index("create_time"), names.index("raw_line")
        return [(int(row[time].timestamp()), row[line]) for row in rows]

    return {
        "by id": lambda: said("msg_id = ?", subject["msg_id"]),
        "day and sender": lambda: said(
            "year = ? AND month = ? AND day = ? AND chatroom_sender = ?", year, month, day, subject["sender"]
        ),
        "by chat room": lambda: db.execute(
            f"SELECT chatroom, count(*) FROM {table} GROUP BY chatroom ORDER BY 2 DESC, 1"
        ).fetchall(),
    }


def questions_polars(files, subject):
    import polars

    table = polars.scan_parquet(files, hive_partitioning=True)
    year, month, day = map(int, subject["day"].split("-"))

    def said(where):
        rows = table.filter(where).collect()
        return list(zip((int(at.timestamp()) for at in rows["create_time"]), rows["raw_line"]))

    return {
        "by id": lambda: said(polars.col("msg_id") == subject["msg_id"]),
        "day and sender": lambda: said(
            (polars.col("year") == year) & (polars.col("month") == month) & (polars.col("day") == day)
            & (polars.col("chatroom_sender") == subject["sender"])
        ),
        "by chat room": lambda: table.group_by("chatroom").len()
        .sort(["len", "chatroom"], descending=[True, False]).collect().rows(),
    }


def questions_pyarrow(files, subject):
    import pyarrow.compute
    import pyarrow.dataset

    table = pyarrow.dataset.dataset(files, partitioning="hive")
    field = pyarrow.compute.field
    year, month, day = map(int, subject["day"].split("-"))

    def said(where):
        rows = table.to_table(filter=where)
        return [(int(at.timestamp()), line) for at, line in zip(rows["create_time"].to_pylist(), rows["raw_line"].to_pylist())]

    def by_room():
        counts = table.to_table(columns=["chatroom"]).group_by("chatroom").aggregate([([], "count_all")])
        counts = counts.sort_by([("count_all", "descending"), ("chatroom", "ascending")])
        return list(zip(counts["chatroom"].to_pylist(), counts["count_all"].to_pylist()))

    return {
        "by id": lambda: said(field("msg_id") == subject["msg_id"]),
        "day and sender": lambda: said(
            (field("year") == year) & (field("month") == month) & (field("day") == day)
            & (field("chatroom_sender") == subject["sender"])
        ),
        "by chat room": by_room,
    }


def query(engine, lake, runs):
    files = sorted(glob.glob(f"{lake}/lake/messages/year=*/month=*/day=*/*.parquet"))
    with open(f"{lake}/subject.json") as subject:
        questions = globals()[f"questions_{engine}"](files, json.load(subject))
    answers = {}
    for name, ask in questions.items():
        start = time.monotonic()
        rows = ask()
        first = time.monotonic() - start
        if name == "by chat room":
            answer = f"{len(rows)} ({json.dumps(rows[0][0])}) {rows[0][1]}"
        else:
            answer = f"{len(rows)} {sum(at for at, _ in rows)} {sum(line for _, line in rows)}"
        took, cpu = [], time.process_time()
        for _ in range(int(runs)):
            start = time.monotonic()
            ask()
            took.append((time.monotonic() - start) * 1e3)
        cpu = (time.process_time() - cpu) * 1e3 / int(runs)
        answers[name] = {"answer": answer, "first_ms": first * 1e3, "ms": took, "cpu_ms": cpu}
    return answers


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    if command in ("compact", "ingest"):
        engine, inputs, output = arguments
        globals()[f"{command}_{engine}"](inputs, output)
    else:
        asked = [versions, prepare, rows, measure, run, query, check, check_ingest, order]
        print(json.dumps({one.__name__: one for one in asked}[command](*arguments)))
