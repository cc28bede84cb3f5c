"""Ask distilabel's way, inside its own environment: its OpenAI LLM, its image task, its pipeline, one question per row.

    python distilabel_ask.py ROWS.jsonl --base-url URL --model NAME --sampling JSON --out FOLDER [--batch 400] [--replicas 2]

Each row of the file has `instruction` and `image`, a data URL: the pictures are read and encoded before distilabel starts.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from distilabel.models.llms import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts, StepResources
from distilabel.steps.tasks import TextGenerationWithImage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--sampling", type=json.loads, required=True, help="temperature, top_p, max_new_tokens")
    parser.add_argument("--batch", type=int, help="rows a step asks at a time; without it distilabel's default, 50")
    parser.add_argument("--replicas", type=int, default=1, help="processes that ask, each a batch at a time")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in arguments.rows.read_text().splitlines()]
    batch = {} if arguments.batch is None else {"input_batch_size": arguments.batch}
    with Pipeline(name="throughput", cache_dir=arguments.out / "cache") as pipeline:
        # The loader hands rows on in batches of its own, which would otherwise cap those of the task.
        load = LoadDataFromDicts(data=rows, batch_size=arguments.batch or 50)
        ask = TextGenerationWithImage(
            llm=OpenAILLM(
                model=arguments.model,
                base_url=arguments.base_url,
                api_key="none",
                generation_kwargs=arguments.sampling,
            ),
            columns=["instruction"],
            image_type="url",
            resources=StepResources(replicas=arguments.replicas),
            **batch,
        )
        load >> ask
    distiset = pipeline.run(use_cache=False)
    generations = distiset["default"]["train"]["generation"]
    (arguments.out / "asked.json").write_text(json.dumps({"rows": len(generations), "empty": generations.count(None)}))


if __name__ == "__main__":
    main()
