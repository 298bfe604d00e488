"""Stage demo_model: train the embedded model, where params.yaml says `demo`."""

from dataclasses import asdict

from lofit.storage.files import write_json, write_whole
from stages import paths
from stages.command import main
from stages.params.plan import read_plan

NOTE = "model.name in params.yaml is not demo, so there is no demo model and no generated data.\n"


def demo_model() -> None:
    plan = read_plan("demo_model")
    figures = {}
    if plan["world"] is None:
        write_whole(paths.DEMO / "data" / "README.txt", NOTE)
    else:
        from lofit import demo
        from stages.checkpoints import open_checkpoint

        checkpoint = open_checkpoint("demo_model", plan, asdict(demo.Recipe()))
        figures = demo.build(paths.DEMO, world=plan["world"], checkpoint=checkpoint)
        checkpoint.clear()
    write_json(paths.DEMO / "figures.json", figures)


if __name__ == "__main__":
    main(demo_model)
