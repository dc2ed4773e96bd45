"""Who is measured."""

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version


@dataclass(frozen=True)
class Peer:
    """Who is measured: ``function`` of ``file``, with ``package`` installed; ``missing`` says why it may not be."""

    name: str
    file: str
    function: str
    package: str
    settings: str = ""
    missing: str = "see requirements.txt"


PEERS = (
    Peer("undertow", "own", "run", "undertow"),
    Peer("undertow whole", "own", "run_all", "undertow", "three estimators, word embeddings too"),
    Peer("torch.func", "vmap", "run", "torch", "vmap of grad, batches of 32"),
    Peer("autograd", "single", "run", "torch", "row by row, on a part of the rows, scaled up"),
    Peer("captum TracInCP", "captum_tracin", "tracincp", "captum", "sample_wise_grads_per_batch"),
    Peer("captum TracInCPFast", "captum_tracin", "fast", "captum", "the head alone, without its bias"),
    Peer("dattri TracIn", "dattri_grad", "tracin", "dattri", "no projection, batches of 256"),
    Peer("dattri TracIn default", "dattri_grad", "tracin_default", "dattri", "projected to 512, batches of 32"),
    Peer("dattri blocks", "dattri_grad", "blocks", "dattri", "BlockProjectedIF, no projection, Hessian Identity"),
    Peer("kronfluence", "kronfluence_identity", "good", "kronfluence", "identity, all queries held"),
    Peer("kronfluence default", "kronfluence_identity", "default", "kronfluence", "identity, 32 queries at a time"),
    Peer("TRAK", "trak_features", "run", "traker", "no projection, no kernel, tracked weights only"),
    Peer("bergson", "bergson_hooks", "run", "bergson", "collector and scorer with the classification loss"),
    Peer("LogIX", "", "", "logix-ai", missing="pip: 0.1.1 Requires-Python <3.11.0,>=3.6.0"),
)


def not_installed(peer: Peer) -> str:
    """Why a peer cannot be measured here; nothing where it can."""
    try:
        version(peer.package)
    except PackageNotFoundError:
        return f"not installed: {peer.missing}"
    return "" if peer.file else "installed, but there is no adapter for it here"


def label(peer: Peer) -> str:
    """Its name with version and settings."""
    name = peer.name.removesuffix(" default").removesuffix(" whole")
    try:
        shown = f"{name} {version(peer.package)}"
    except PackageNotFoundError:
        shown = name
    return f"{shown}: {peer.settings}" if peer.settings else shown
