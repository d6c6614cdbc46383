"""The `llm` command line, through `extra-openai-models.yaml`."""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

MODEL = f"""- model_id: ours
  model_name: {os.environ["MODEL"]}
  api_base: {os.environ["URL"]}/v1
  api_key_name: ours
"""
with tempfile.TemporaryDirectory() as folder:
    Path(folder, "extra-openai-models.yaml").write_text(MODEL)
    command = [str(Path(sys.executable).parent / "llm"), "-m", "ours", "hello", "-u", "--key", os.environ["KEY"]]
    env = {**os.environ, "LLM_USER_PATH": folder}
    for more in (["--no-stream"], []):
        made = subprocess.run([*command, *more], stdin=subprocess.DEVNULL, capture_output=True, text=True, env=env)
        if made.returncode:
            sys.exit(made.stderr)
        used = re.search(r"([\d,]+) input, ([\d,]+) output", made.stderr)
        counts = [int(n.replace(",", "")) for n in used.groups()]
        print(json.dumps({"input": counts[0], "output": counts[1], "text": made.stdout.strip()}))
