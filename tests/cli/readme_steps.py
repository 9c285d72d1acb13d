"""What becomes of every command of README.md in the tests: a new one fails `test_readme.py` until it stands here.

Best is EXECUTED. What takes other machines, hours or the network is PARSED: the parser takes it, and a recipe or a
supernet's description is made of it. ELSEWHERE names a test that executes it.
"""

from __future__ import annotations

_SMALL = "--in-chans 1 --img-size 8"
_SHORT = "--data digits --limit-train 64 --batch-size 32 --epochs 2"

EXECUTED: list[tuple[str, str]] = [
    # own data: ./photos has two classes of tiny images
    ("pgnas doctor", "pgnas doctor"),
    ("pgnas inflate shakeshake26_2x16d --img-size 32", "pgnas inflate test_resnet --img-size 8"),
    (
        "pgnas train --data photos --target-params 0.25x --epochs 2 --limit-train 500",
        "pgnas train --data photos --target-params 0.25x --epochs 1 --limit-train 16 --batch-size 16",
    ),
    (
        "pgnas train --data photos --target-params 0.25x",
        "pgnas train --data photos --target-params 0.25x --force --epochs 2 --batch-size 16",
    ),
    ("pgnas status", "pgnas status"),
    ("pgnas sample", "pgnas sample"),
    ("pgnas rank", "pgnas rank"),
    ("pgnas report --open", "pgnas report --open"),
    ("pgnas export", "pgnas export"),
    ("pgnas verify", "pgnas verify"),
    # the commands, with the default recipe
    ("pgnas inflate resnet50 --width 1.7", f"pgnas inflate shakeshake26_2x2d --width 1.5 {_SMALL}"),
    ("pgnas inflate ARCH", f"pgnas inflate test_resnet {_SMALL}"),
    ("pgnas train --target-params 0.5x", f"pgnas train --target-params 0.5x {_SHORT}"),
    ("pgnas sample --from soft -n 200", "pgnas sample --from soft -n 3"),
    ("pgnas sample --from soft", "pgnas sample --from soft -n 2"),
    ("pgnas sample", "pgnas sample"),
    ("pgnas rank", "pgnas rank"),
    ("pgnas report", "pgnas report"),
    ("pgnas export --push-to-hub", "pgnas export --push-to-hub"),
    ("pgnas export --push-to-hub --dry-run", "pgnas export --push-to-hub --dry-run"),
    (
        "pgnas export --push-to-hub --repo-id lab/net --private --tag v1",
        "pgnas export --push-to-hub --repo-id lab/net --private --tag v1",
    ),
    ("pgnas verify lab/net@v1", "pgnas verify lab/net@v1"),
    ("pgnas verify --trust-plugins", "pgnas verify --trust-plugins"),
    ("pgnas bench runs/.../export", "pgnas bench {export} --repeats 1 --no-compile --no-onnx"),
    (
        "pgnas bench runs/x/export --batch-size 1 --batch-size 64",
        "pgnas bench {export} --batch-size 1 --batch-size 2 --repeats 1 --no-compile --no-onnx",
    ),
    ("pgnas export --fold-bn --layout auto --onnx --pt2", "pgnas export --fold-bn --layout auto --onnx --pt2"),
    ("pgnas export --round-to 8", "pgnas export --round-to 2"),
    # many sizes from one posterior
    ("pgnas inflate ARCH", f"pgnas inflate test_resnet {_SMALL}"),
    (
        "pgnas train --recipe posterior --target-params 0.5x",
        f"pgnas train --recipe posterior --target-params 0.5x {_SHORT}",
    ),
    ("pgnas sample -n 500", "pgnas sample -n 3"),
    (
        "pgnas sample --strategy stratified --params 0.3x..0.9x -n 200",
        "pgnas sample --strategy stratified --params 0.3x..0.9x -n 6",
    ),
    ("pgnas rank --recalibrate 512 --front", "pgnas rank --recalibrate 32 --front"),
    ("pgnas export --at 0.4x", "pgnas export --at 0.5x"),
    ("pgnas rank --budget 0.15", "pgnas rank --budget 0.7 --force"),
    ("pgnas rank --margin 0.1 --confidence 0.95", "pgnas rank --margin 0.1 --confidence 0.95 --force"),
    ("pgnas rank --front", "pgnas rank --front"),
    ("pgnas rank --certify 8 --certify-epochs 20", "pgnas rank --certify 3 --certify-epochs 1"),
    ("pgnas rank --finetune 5", "pgnas rank --finetune 1"),
    ("pgnas show", "pgnas show"),
    ("pgnas show --layers", "pgnas show --layers"),
    ("pgnas show --candidate 23af", "pgnas show --candidate {candidate}"),
    ("pgnas report --compare RUN RUN", "pgnas report --compare {run} {other}"),
    # the paper
    ("pgnas inflate supnet-mi --width 0.25", f"pgnas inflate supnet-mi --width 0.03 {_SMALL}"),
    (
        "pgnas train --recipe paper/cifar10-mi --data-dir DIR --epochs 5 --limit-train 6000",
        "pgnas train --recipe paper/cifar10-mi --data-dir . --epochs 1 --limit-train 32 --data digits --cutout 2",
    ),
    ("pgnas sample -n 10000", "pgnas sample -n 2"),
    ("pgnas rank --method exhaustive", "pgnas rank --method exhaustive"),
    # the zoo
    ("pgnas zoo list", "pgnas zoo list"),
    ("pgnas zoo show resnet50", "pgnas zoo show resnet50"),
    ("pgnas zoo show ARCH", "pgnas zoo show supnet-m"),
    ("pgnas zoo check ARCH", "pgnas zoo check test_resnet --number 1 --img-size 8"),
    ("pgnas zoo new tiny-net", "pgnas zoo new tiny-net"),
    ("pgnas --help", "pgnas --help"),
]
"""(as it stands in the README, as it is typed): in this order, in one folder, with the same options and smaller values.
{run} is the newest run at that moment, {other} the one before it, {export} and {candidate} are of the newest."""

_ALLOCATOR = "tests/training/test_allocator.py::test_what_the_user_has_set_stays"
_PLUGIN = "tests/cli/test_zoo_new.py::test_the_distribution_works_in_an_environment_of_its_own"
_QUICKSTART = (
    "tests/cli/test_workflow.py::test_quickstart_ends_in_three_networks_in_its_own_run_whatever_the_environment_names"
)

ELSEWHERE: dict[str, str] = {
    "pgnas train --resume": "tests/cli/test_resume.py::test_killed_in_the_middle_of_an_epoch",
    "MALLOC_TRIM_THRESHOLD_=131072 pgnas train ...": _ALLOCATOR,
    "OMP_NUM_THREADS=1 pgnas quickstart": _QUICKSTART,
    "pgnas train --fixed-drop 0.4": _QUICKSTART,
    "pgnas sample --strategy uniform": _QUICKSTART,
    "pip install -e 'pgnas-tiny-net[test]'": _PLUGIN,
    "pytest pgnas-tiny-net": _PLUGIN,
    "pgnas zoo check tiny_net": _PLUGIN,
    "pgnas inflate tiny_net --width 2": _PLUGIN,
}

_GPUS = "several GPUs; processes on the CPU: tests/cli/test_train_procs.py"
_NODES = "several nodes; torchrun on one: tests/training/test_distributed.py"
_INSTALLS = "an installation of some gigabytes; .ci/run and .ci/wheel do it"
_TRAINING = "a training as those that are executed, with another value of the recipe"

PARSED: dict[str, str] = {
    "python3 -m venv .venv && . .venv/bin/activate": _INSTALLS,
    "pip install .": _INSTALLS,
    'pip install ".[onnx]"': _INSTALLS,
    'pip install "pgnas[tensorboard]"': _INSTALLS,
    'python3 -m venv .venv && .venv/bin/pip install -e ".[dev]" && .venv/bin/python -m pytest -n 2 --dist loadfile': (
        _INSTALLS
    ),
    "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/pgnas quickstart": _INSTALLS,
    "apt-get install dataset-fashion-mnist": "needs root and Debian",
    "tensorboard --logdir runs/.../train/tensorboard": "a server of another project",
    "hf auth login": "asks for a token of the Hub",
    "pgnas --install-completion": "writes into the start files of the user's shell",
    "pgnas inflate resnet18 --width 2 --img-size 128": "a network of another size, 45 M parameters",
    "pgnas inflate resnet50 --pretrained --width 1.7": "timm's weights come from the network",
    "pgnas inflate supnet-mi": "72.7 M parameters; executed with a smaller --width",
    "pgnas train --recipe paper/cifar10-mi --data-dir DIR": "six GPU-days; executed with --epochs 1",
    "pgnas train --force": _TRAINING,
    "pgnas train --force --lr 0.01": _TRAINING,
    "pgnas train --set objective.l2=50": _TRAINING,
    "pgnas train --recipe paper/cifar10-m --temperature 0.67": _TRAINING,
    "pgnas train --gpus 0,1,2,3": _GPUS,
    "pgnas rank --gpus 0,1,2,3": _GPUS,
    "pgnas rank --budget 0.15 --certify 8 --certify-epochs 6 --finetune 3 --front": "its options are executed in turn",
    'head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)': _NODES,
    "torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-id search1 --rdzv-endpoint node1:29500 -m -- "
    "pgnas_cli train --run runs/r50 --device cuda --recipe paper/imagenet-r50 --data-dir imagenet": _NODES,
    'srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node 8 --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" '
    '--rdzv-endpoint "$head:29500" -m -- pgnas_cli train --run runs/r50 --device cuda': _NODES,
}
"""Why each is only parsed."""

SHELL: dict[str, str] = {
    "mkdir -p data/FashionMNIST/raw": "mkdir -p data/FashionMNIST/raw",
    'for f in /usr/share/datasets/fashion-mnist/*.gz; do gunzip -c "$f" > data/FashionMNIST/raw/'
    '$(basename "${f%.gz}"); done': 'for f in packed/*.gz; do gunzip -c "$f" > data/FashionMNIST/raw/'
    '$(basename "${f%.gz}"); done',
}
"""Executed by a shell: as it stands -> as it is typed."""
