#!/usr/bin/env bash
# ruamel.yaml 0.19.1 no longer brings its parser in C, so an unchanged `dvc repro` (3.67.1) takes 1.8 times as long, in silence.
#
# Up to 0.18 ruamel.yaml depended on ruamel.yaml.clib where wheels exist. 0.19 does not, and YAML(typ="safe"), which DVC uses
# for dvc.yaml, dvc.lock and params.yaml, falls back to Python without a word. DVC reads params.yaml anew for every stage that
# names it, so that an unchanged `dvc repro` of twenty stages and a params.yaml of a thousand lines takes most of its time in
# the parser. Installing ruamel.yaml.clib beside it brings the old speed back; the two word syntax errors differently.
# Exits non-zero when this changes.
set -euo pipefail
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q dvc==3.67.1 ruamel.yaml==0.19.1
export DVC_NO_ANALYTICS=1 PATH="$place/venv/bin:$PATH"
mkdir "$place/project" && cd "$place/project"
dvc init -q --no-scm
python - <<'PY'
stages = "".join(
    f"  stage{n}: {{cmd: 'echo {n} > out{n}', params: [section{n}.value0], outs: [{{out{n}: {{cache: false}}}}]}}\n"
    for n in range(20)
)
open("dvc.yaml", "w").write("stages:\n" + stages)
sections = (f"section{n}:\n" + "".join(f"  value{m}: {m}\n" for m in range(50)) for n in range(20))
open("params.yaml", "w").write("".join(sections))
PY
dvc repro -q
spent() {
    python - <<'PY'
import resource, statistics, subprocess

times = []
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run(["dvc", "repro", "-q"], check=True)
    times.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before)
print(round(statistics.median(times), 2))
PY
}
parser() { python -c 'from ruamel.yaml import YAML; print(YAML(typ="safe").Parser.__name__)'; }
echo "dvc $(dvc --version), ruamel.yaml $(python -c 'import ruamel.yaml; print(ruamel.yaml.__version__)')"
before=$(parser); slow=$(spent)
"$place/venv/bin/pip" install -q ruamel.yaml.clib==0.2.15
after=$(parser); fast=$(spent)
echo "unchanged dvc repro of 20 stages, processor seconds: $slow with $before, $fast with $after"
test "$before" = Parser && test "$after" = CParser
python -c "assert $slow > 1.5 * $fast, 'no longer slower'"
echo "as stated"
