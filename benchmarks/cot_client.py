"""The client's own ceiling: what a request to a teacher costs where the server costs nothing.

The server is tests/fault_server.py in its own process; it replies at once. Pictures of 64 and 512 pixels are encoded once
before the clock starts, as they are for the many requests about one row. "CPU ms" is processor time of the client process
per request, from the question to the reply; "per core" is its inverse: the requests/s one core can keep in flight. "asked"
is the limit the client settled on, of at most --concurrency.

The second table is the processor time of making one picture ready to send with an `image_size` of 512.

    python -m benchmarks.cot_client --requests 4000 --concurrency 256
"""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from cot_builder.prompts import load_prompt
from cot_builder.teachers.base import TeacherQuestion
from cot_builder.teachers.config import OpenAIConfig
from cot_builder.teachers.images import TeacherImage, data_url
from cot_builder.teachers.openai import OpenAITeacher
from pipeline import command_line
from pipeline.data.images import plain_jpeg
from pipeline.types import labelled_image

SERVER = Path(__file__).resolve().parent.parent / "tests" / "fault_server.py"
SOURCES = (("a.jpg", 512, 384), ("b.png", 512, 384), ("c.jpg", 1000, 750), ("d.jpg", 2400, 1800))
TEXT = "What does this picture make people feel? Reason in two to five short sentences. " * 8


def draw(path: Path, width: int, height: int) -> Path:
    """A picture that compresses about as a photograph does."""
    noise = Image.effect_noise((width // 4, height // 4), 90).resize((width, height))
    grain = Image.effect_noise((width, height), 20)
    Image.merge("RGB", [Image.blend(noise, grain, share) for share in (0.1, 0.2, 0.3)]).save(path, quality=90)
    return path


def prepare(path: Path) -> float:
    """Processor seconds of reading one picture and encoding it as it is sent; the best of five times ten."""
    best = math.inf
    for _ in range(5):
        started = time.process_time()
        for _ in range(10):
            data_url(path, 512)
        best = min(best, (time.process_time() - started) / 10)
    return best


async def measure(url: str, path: Path, requests: int, concurrency: int) -> tuple[float, float, int]:
    """(requests/s, processor seconds per request, limit at the end) of asking the server at `url` about one picture."""
    config = OpenAIConfig(model="none", base_urls=[url], patience=10.0)
    teacher = OpenAITeacher("none", config, 0, concurrency)
    prompt, picture = load_prompt("answer_hidden_v1"), TeacherImage(path)
    await picture.data_url(config.image_size)

    async def work(numbers: range) -> None:
        for number in numbers:
            row = labelled_image(str(number), path, "awe")
            question = TeacherQuestion(row, "answer_hidden", 0, prompt, TEXT, (picture,))
            await teacher.ask(question, teacher.request(question))

    # Connect.
    await asyncio.gather(*(work(range(-n, -n + 1)) for n in range(1, concurrency + 1)))
    wall, processor = time.perf_counter(), time.process_time()
    await asyncio.gather(*(work(range(first, requests, concurrency)) for first in range(concurrency)))
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    limit = teacher.endpoints()[0].limit
    await teacher.close()
    return requests / wall, processor / requests, limit


def main() -> None:
    parser = command_line.doc_parser("benchmarks.cot_client", __doc__)
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--concurrency", type=int, default=256)
    words = parser.parse_args()
    server = subprocess.Popen([sys.executable, SERVER], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        url = server.stdout.readline().strip()
        print("| picture | JPEG kB | requests/s | CPU ms | per core | asked |\n| --- | --- | --- | --- | --- | --- |")
        with tempfile.TemporaryDirectory() as folder:
            for side in (64, 512):
                path = draw(Path(folder) / f"{side}.jpg", side, side)
                rate, cost, limit = asyncio.run(measure(url, path, words.requests, words.concurrency))
                size = path.stat().st_size / 1000
                print(f"| {side} px | {size:.0f} | {rate:.0f} | {cost * 1000:.3f} | {1 / cost:.0f} | {limit} |")
            print("\n| source | sent | CPU ms |\n| --- | --- | --- |")
            for name, width, height in SOURCES:
                path = draw(Path(folder) / name, width, height)
                sent = "as it is" if plain_jpeg(path, 512) else "shrunk to 512" if width > 512 else "as JPEG"
                print(f"| {width} x {height} {path.suffix[1:].upper()} | {sent} | {1000 * prepare(path):.2f} |")
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
