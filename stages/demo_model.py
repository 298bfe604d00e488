"""Stage demo_model: train the embedded model, where params.yaml says `demo`."""

from dataclasses import asdict

from lofit.storage.files import write_json, write_whole
from stages import paths
from stages.command import main
from stages.plan import read_plan

NOTE = "model.name in params.yaml is not demo, so there is no demo model and no generated data.\n"


def demo_model() -> None:
    plan = read_plan("demo_model")
    if plan["world"] is None:
        write_whole(paths.DEMO / "data" / "README.txt", NOTE)
        write_json(paths.DEMO / "figures.json", {})
        return
    # Only the demo pays for importing it.
    from lofit import demo
    from stages.checkpoints import open_checkpoint

    checkpoint = open_checkpoint("demo_model", plan, asdict(demo.Recipe()))
    demo.make(paths.DEMO, world=plan["world"], checkpoint=checkpoint)
    checkpoint.clear()


if __name__ == "__main__":
    main(demo_model)
