"""The published split files: which they are, and how they come here.

They are those of the published LoFiT code, pinned to its last commit and to the sha256 of every file.
"""

import logging
from pathlib import Path

from tqdm import tqdm

from lofit.errors import LofitError
from lofit.extras import extra
from lofit.storage.files import write_whole

COMMIT = "ebd344a273d3dab0b63d8bbfd7ecdb5185ae5b7b"
BASE_URL = f"https://raw.githubusercontent.com/fc2869/lo-fit/{COMMIT}/dataset/"
RETRIES = 3
WAY_OUT = "a folder with these files, named as the source (see data/README.md)"

FILES = {
    "truthfulqa": {
        "truthfulqa/fold_0_train_seed_42.csv": "e80aebee6876ceec76ac030bcfd31c070b9c23809077500a3b183640386fb136",
        "truthfulqa/fold_0_val_seed_42.csv": "5563034f53a463202f4c2ac82336a58d81d0ec02460f7d80e8abce6a4972161a",
        "truthfulqa/fold_0_test_seed_42.csv": "4bd4d0db03751e652c6811b053e14c2f4ea43da888571fa0f15df42e7544a67c",
        "truthfulqa/fold_1_train_seed_42.csv": "0342def493a6afdaae11737cd557393c0cde2cc35d26d58e7a2fd4c954997fba",
        "truthfulqa/fold_1_val_seed_42.csv": "375030fc5bfe7315825f0272b95f6d2b0b0f6332f7121ba57537ec5c1fc1969e",
        "truthfulqa/fold_1_test_seed_42.csv": "e9019df6fca8a1e25eed3e2256196d30a2675528e76eae0b812b5092fa114455",
    },
    "mquake": {
        "MQuAKE/train.jsonl": "5db931bd09457245d1a133fe8df86a45985d28767ba6f032d1b7dcc737e22498",
        "MQuAKE/val.jsonl": "3cbf9245ba671458d0979c5bba569e838d54fce860e8d0c5af0bc2ce54d41e83",
        "MQuAKE/test.jsonl": "3090ef350f4322878968466881de9ec988b5b71daf55d5d9b04fb894a5ebac87",
    },
    "clutrr": {
        "clutrr/train.json": "8640526e573444bdf52bd78eee0bf3a9f2e96bb3bb6d7610021dc05751a5c873",
        "clutrr/val.json": "afcae888ed7862081496151a33b9bed157d709b01589c2db566266ecdd906f1e",
        "clutrr/test.json": "cf400381f8a12a703265f95df1387c217a71525325f725ff2b8dc08123c30056",
    },
}
"""Path below `dataset/` and sha256 of every file, by task."""


def fetch(kind: str, out: Path, *, cache: Path, base_url: str = BASE_URL) -> None:
    """Bring all published files of a task into `out`, by way of `cache`.

    A file that lies in `cache` with the right hash is not downloaded again. A download gets its name there once it is
    whole and its hash is right, so an interrupted one can be repeated.

    Raises:
        LofitError: the source cannot be reached, does not have a file, or has another one than it had.
    """
    with extra("pipeline", "downloads of published data need"):
        import pooch
        from requests import RequestException

    # Its log tells of every attempt; what a user can act on is in the exception.
    pooch.get_logger().setLevel(logging.ERROR)
    files = FILES[kind]
    store = pooch.create(path=cache, base_url=base_url, registry=files, retry_if_failed=RETRIES)

    def download(url: str, file: str, store: pooch.Pooch) -> None:
        pooch.HTTPDownloader()(url, file, store)
        # pooch would find this too, but says it in four sentences.
        if (met := pooch.file_hash(file)) != (pinned := store.registry[url.removeprefix(store.base_url)]):
            raise LofitError(f"{url}: changed at its source, got sha256 {met}; expected {pinned}, or {WAY_OUT}")

    fetched = []
    for name in tqdm(files, desc=f"Fetching {kind}", unit="file"):
        try:
            fetched.append(Path(store.fetch(name, downloader=download)))
        except RequestException as error:
            met = type(error).__name__ if error.response is None else f"HTTP {error.response.status_code}"
            raise LofitError(
                f"{store.get_url(name)}: got {met}; expected a network that reaches it, or {WAY_OUT}"
            ) from None
    for file in fetched:
        write_whole(out / file.name, file.read_bytes())
