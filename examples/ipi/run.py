"""Path integrals of sodium chloride, 4 beads, with i-PI: python run.py MODEL.pt.

Starts the server and one driver, as two terminals would:

    i-pi input.xml
    i-pi-py_driver -u -a lsf_nacl -m custom -P FILE -o template=../nacl.xyz,model=MODEL.pt

with the FILE that python -m lsf.engines.ipi prints.
"""

import subprocess
import sys
import time
from pathlib import Path

from lsf.engines import ipi as ipi_driver


def main(model_file):
    tools = Path(sys.executable).parent
    server = subprocess.Popen([tools / "i-pi", "input.xml"])
    try:
        while not Path("/tmp/ipi_lsf_nacl").exists() and server.poll() is None:
            time.sleep(0.1)
        options = f"template=../nacl.xyz,model={model_file}"
        driver = [tools / "i-pi-py_driver", "-u", "-a", "lsf_nacl", "-m", "custom", "-P", ipi_driver.__file__]
        subprocess.run([*driver, "-o", options], check=True)
        status = server.wait()
    finally:
        server.kill()
    sys.stdout.write(Path("nacl.out").read_text())
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
