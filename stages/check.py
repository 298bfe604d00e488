"""Stage check: refuse a faulty params.yaml before any other stage runs."""

from lofit.files import write_whole
from stages import workspace


def check() -> None:
    workspace.read_params()
    write_whole(workspace.ARTIFACTS / "checked.txt", "params.yaml is valid\n")


if __name__ == "__main__":
    workspace.main(check)
