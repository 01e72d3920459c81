"""layerlens: look inside a transformer, layer by layer, in a notebook.

Names are resolved on first use, so that ``import layerlens`` needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layerlens.analyses.attention.composition import composition
    from layerlens.analyses.attention.head_channels import head_channels
    from layerlens.analyses.attention.head_clusters import head_clusters
    from layerlens.analyses.attention.head_roles import head_roles
    from layerlens.analyses.attention.patterns import attention
    from layerlens.analyses.attention.token_attribution import token_attribution
    from layerlens.analyses.circuits.edge_attribution import edge_attribution
    from layerlens.analyses.circuits.feature_circuit import feature_circuit
    from layerlens.analyses.circuits.graph_files import export_graph, import_graph
    from layerlens.analyses.circuits.interaction_basis import interaction_basis
    from layerlens.analyses.circuits.interaction_graph import interaction_graph
    from layerlens.analyses.circuits.transcoder_files import export_transcoders, load_transcoders
    from layerlens.analyses.contract.registry import estimate
    from layerlens.analyses.contributions.direct_logit_attribution import direct_logit_attribution
    from layerlens.analyses.contributions.mlp_decomposition import mlp_decomposition
    from layerlens.analyses.contributions.observables import observable
    from layerlens.analyses.depth.block_jacobian import block_jacobian
    from layerlens.analyses.depth.chain_of_layers import chain_of_layers
    from layerlens.analyses.depth.depth_score import depth_score
    from layerlens.analyses.depth.finercut import finercut
    from layerlens.analyses.depth.first_cosine import first_cosine
    from layerlens.analyses.depth.integrated_gradients import integrated_gradients
    from layerlens.analyses.depth.macro_influence import macro_influence
    from layerlens.analyses.depth.matchness import matchness
    from layerlens.analyses.depth.quantisation_sensitivity import quantisation_sensitivity
    from layerlens.analyses.depth.residual_erasure import residual_erasure
    from layerlens.analyses.depth.skip_layers import skip_layers
    from layerlens.analyses.depth.skip_search import skip_search
    from layerlens.analyses.depth.sparse_layers import sparse_layers
    from layerlens.analyses.depth.sparse_split import sparse_split
    from layerlens.analyses.depth.void_layers import voids
    from layerlens.analyses.embedding.sticky_tokens import sticky_tokens
    from layerlens.analyses.features.concepts.concepts import concepts
    from layerlens.analyses.features.facets.facets import facets
    from layerlens.analyses.features.feature import feature
    from layerlens.analyses.features.features import features
    from layerlens.analyses.features.page.page_files import export_feature, import_feature
    from layerlens.analyses.features.sae_files import export_sae, load_sae
    from layerlens.analyses.features.sae_metrics import sae_metrics
    from layerlens.analyses.features.training.train_sae import train_sae
    from layerlens.analyses.features.training.train_transcoder import train_transcoder
    from layerlens.analyses.grafting.back_patch import back_patch
    from layerlens.analyses.grafting.cross_model_patch import cross_model_patch
    from layerlens.analyses.grafting.layer_swap import layer_swap
    from layerlens.analyses.grafting.mode_connectivity import mode_connectivity
    from layerlens.analyses.grafting.stitch import stitch
    from layerlens.analyses.information.information_plane import information_plane
    from layerlens.analyses.information.neural_collapse import neural_collapse
    from layerlens.analyses.information.out_of_distribution import out_of_distribution
    from layerlens.analyses.information.state_map import state_map
    from layerlens.analyses.lenses.bigram_layers import bigram_layers
    from layerlens.analyses.lenses.contrast_layers import contrast_layers
    from layerlens.analyses.lenses.early_exit import early_exit
    from layerlens.analyses.lenses.fitting.fit_lens import fit_lens
    from layerlens.analyses.lenses.fitting.lens_quality import lens_quality
    from layerlens.analyses.lenses.generation_lens import generation_lens
    from layerlens.analyses.lenses.jacobian_lens_files import (
        export_jacobian_lens,
        import_jacobian_lens,
    )
    from layerlens.analyses.lenses.language_track import language_track
    from layerlens.analyses.lenses.lens_difference import lens_difference
    from layerlens.analyses.lenses.logit_lens import logit_lens
    from layerlens.analyses.lenses.token_dispositions import token_dispositions
    from layerlens.analyses.lenses.token_uncertainty import token_uncertainty
    from layerlens.analyses.lenses.tuned_lens_files import export_tuned_lens, import_tuned_lens
    from layerlens.analyses.measuring.checkpoint_difference import checkpoint_difference
    from layerlens.analyses.measuring.compare_models import compare_models
    from layerlens.analyses.measuring.delta_signs import delta_signs
    from layerlens.analyses.measuring.expert_use import expert_use
    from layerlens.analyses.measuring.head_scores import head_scores
    from layerlens.analyses.measuring.invariance import invariance
    from layerlens.analyses.measuring.layer_metrics import layer_metrics
    from layerlens.analyses.measuring.series import series
    from layerlens.analyses.measuring.spectrum import spectrum
    from layerlens.analyses.neurons.clamp import clamp
    from layerlens.analyses.neurons.frequency_tags import frequency_tags
    from layerlens.analyses.neurons.neuron import neuron
    from layerlens.analyses.neurons.neuron_modules import neuron_modules
    from layerlens.analyses.neurons.neuron_tokens import neuron_tokens
    from layerlens.analyses.neurons.top_texts import top_texts
    from layerlens.analyses.numbers.fourier import fourier
    from layerlens.analyses.patching.attribution_patch import attribution_patch
    from layerlens.analyses.patching.patch_sweep import patch_sweep
    from layerlens.analyses.probing.aligned_pairs import aligned_pairs
    from layerlens.analyses.probing.attention_probe import attention_probe
    from layerlens.analyses.probing.layer_mix import layer_mix
    from layerlens.analyses.probing.minimal_pairs import minimal_pairs
    from layerlens.analyses.probing.probe import probe
    from layerlens.analyses.probing.probe_conditions import probe_conditions
    from layerlens.analyses.probing.probe_tasks import probe_tasks
    from layerlens.analyses.probing.sentence_scores import sentence_scores
    from layerlens.analyses.relevance.faithfulness import faithfulness
    from layerlens.analyses.relevance.linear_interpreter import linear_interpreter
    from layerlens.analyses.relevance.relevance import relevance
    from layerlens.analyses.removal.ablate_sweep import ablate_sweep
    from layerlens.analyses.removal.knockout import knockout
    from layerlens.analyses.removal.massive_ablation import massive_ablation
    from layerlens.analyses.removal.suppression import suppression
    from layerlens.analyses.sensitivity.cross_layer_sensitivity import cross_layer_sensitivity
    from layerlens.analyses.sensitivity.gradient_norms import gradient_norms
    from layerlens.analyses.sensitivity.hessian import hessian
    from layerlens.analyses.sensitivity.inflection_layers import inflection_layers
    from layerlens.analyses.sensitivity.layer_gradients import layer_gradients
    from layerlens.analyses.sensitivity.perturbation_growth import perturbation_growth
    from layerlens.analyses.steering.probe_steering import probe_steering
    from layerlens.analyses.steering.steering import steering
    from layerlens.analyses.texts.translation_prompts import translation_prompts
    from layerlens.analyses.tracing.causal_trace import causal_trace
    from layerlens.analyses.tracing.neuron_path import neuron_path
    from layerlens.analyses.tracing.path_patch import path_patch
    from layerlens.checkup import doctor
    from layerlens.corpus.texts import Texts, texts
    from layerlens.errors import (
        ActivationError,
        Cancelled,
        InputError,
        LayerLensError,
        MemoryLimitError,
        ModelError,
        ProofError,
        ResultError,
        SiteError,
    )
    from layerlens.glossary import terms
    from layerlens.index import analyses, metrics
    from layerlens.metrics.best_run import best_run
    from layerlens.model.inputs import audio, images, sides
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.load import load
    from layerlens.model.runs import Runs
    from layerlens.model.sites import Site
    from layerlens.result import Result
    from layerlens.result import open_saved as open
    from layerlens.result.beside import beside
    from layerlens.result.fitted import Fitted
    from layerlens.run.edit_lists import edits_from_json, edits_to_json
    from layerlens.run.edits import Edit, edit
    from layerlens.run.generate_layers import generate_layers
    from layerlens.run.generation import Generation
    from layerlens.run.layers import Layers, run_layers
    from layerlens.run.record import Trace, record, run
    from layerlens.run.values import Source, source
    from layerlens.views import (
        AttentionView,
        CurvesView,
        FeatureView,
        GenerationView,
        GraphView,
        GridView,
        LensView,
        MetricsView,
        PatchView,
        ScatterView,
        StripView,
    )
    from layerlens.views.explore import explore
    from layerlens.views.given_attention import (
        attention_heads,
        attention_patterns,
        head_view,
        model_view,
    )
else:
    # Callable packages: their names have to be their own from the start.
    from layerlens import metrics, run

_PLACES = {
    "load": "layerlens.model.load",
    "LensModel": "layerlens.model.lensmodel",
    "Runs": "layerlens.model.runs",
    "Site": "layerlens.model.sites",
    "record": "layerlens.run.record",
    "Trace": "layerlens.run.record",
    "early_exit": "layerlens.analyses.lenses.early_exit",
    "edit": "layerlens.run.edits",
    "Edit": "layerlens.run.edits",
    "source": "layerlens.run.values",
    "Source": "layerlens.run.values",
    "edits_to_json": "layerlens.run.edit_lists",
    "edits_from_json": "layerlens.run.edit_lists",
    "Generation": "layerlens.run.generation",
    "layer_metrics": "layerlens.analyses.measuring.layer_metrics",
    "contrast_layers": "layerlens.analyses.lenses.contrast_layers",
    "generation_lens": "layerlens.analyses.lenses.generation_lens",
    "fit_lens": "layerlens.analyses.lenses.fitting.fit_lens",
    "lens_quality": "layerlens.analyses.lenses.fitting.lens_quality",
    "export_jacobian_lens": "layerlens.analyses.lenses.jacobian_lens_files",
    "import_jacobian_lens": "layerlens.analyses.lenses.jacobian_lens_files",
    "export_tuned_lens": "layerlens.analyses.lenses.tuned_lens_files",
    "import_tuned_lens": "layerlens.analyses.lenses.tuned_lens_files",
    "token_dispositions": "layerlens.analyses.lenses.token_dispositions",
    "token_uncertainty": "layerlens.analyses.lenses.token_uncertainty",
    "language_track": "layerlens.analyses.lenses.language_track",
    "translation_prompts": "layerlens.analyses.texts.translation_prompts",
    "lens_difference": "layerlens.analyses.lenses.lens_difference",
    "logit_lens": "layerlens.analyses.lenses.logit_lens",
    "back_patch": "layerlens.analyses.grafting.back_patch",
    "cross_model_patch": "layerlens.analyses.grafting.cross_model_patch",
    "layer_swap": "layerlens.analyses.grafting.layer_swap",
    "mode_connectivity": "layerlens.analyses.grafting.mode_connectivity",
    "stitch": "layerlens.analyses.grafting.stitch",
    "sticky_tokens": "layerlens.analyses.embedding.sticky_tokens",
    "direct_logit_attribution": "layerlens.analyses.contributions.direct_logit_attribution",
    "steering": "layerlens.analyses.steering.steering",
    "run_layers": "layerlens.run.layers",
    "Layers": "layerlens.run.layers",
    "generate_layers": "layerlens.run.generate_layers",
    "attribution_patch": "layerlens.analyses.patching.attribution_patch",
    "patch_sweep": "layerlens.analyses.patching.patch_sweep",
    "chain_of_layers": "layerlens.analyses.depth.chain_of_layers",
    "compare_models": "layerlens.analyses.measuring.compare_models",
    "delta_signs": "layerlens.analyses.measuring.delta_signs",
    "invariance": "layerlens.analyses.measuring.invariance",
    "skip_layers": "layerlens.analyses.depth.skip_layers",
    "path_patch": "layerlens.analyses.tracing.path_patch",
    "causal_trace": "layerlens.analyses.tracing.causal_trace",
    "knockout": "layerlens.analyses.removal.knockout",
    "depth_score": "layerlens.analyses.depth.depth_score",
    "integrated_gradients": "layerlens.analyses.depth.integrated_gradients",
    "cross_layer_sensitivity": "layerlens.analyses.sensitivity.cross_layer_sensitivity",
    "edge_attribution": "layerlens.analyses.circuits.edge_attribution",
    "fourier": "layerlens.analyses.numbers.fourier",
    "frequency_tags": "layerlens.analyses.neurons.frequency_tags",
    "gradient_norms": "layerlens.analyses.sensitivity.gradient_norms",
    "hessian": "layerlens.analyses.sensitivity.hessian",
    "inflection_layers": "layerlens.analyses.sensitivity.inflection_layers",
    "interaction_basis": "layerlens.analyses.circuits.interaction_basis",
    "interaction_graph": "layerlens.analyses.circuits.interaction_graph",
    "layer_gradients": "layerlens.analyses.sensitivity.layer_gradients",
    "matchness": "layerlens.analyses.depth.matchness",
    "skip_search": "layerlens.analyses.depth.skip_search",
    "perturbation_growth": "layerlens.analyses.sensitivity.perturbation_growth",
    "sparse_layers": "layerlens.analyses.depth.sparse_layers",
    "sparse_split": "layerlens.analyses.depth.sparse_split",
    "massive_ablation": "layerlens.analyses.removal.massive_ablation",
    "attention_probe": "layerlens.analyses.probing.attention_probe",
    "probe_conditions": "layerlens.analyses.probing.probe_conditions",
    "sentence_scores": "layerlens.analyses.probing.sentence_scores",
    "layer_mix": "layerlens.analyses.probing.layer_mix",
    "probe": "layerlens.analyses.probing.probe",
    "probe_steering": "layerlens.analyses.steering.probe_steering",
    "probe_tasks": "layerlens.analyses.probing.probe_tasks",
    "ablate_sweep": "layerlens.analyses.removal.ablate_sweep",
    "attention": "layerlens.analyses.attention.patterns",
    "top_texts": "layerlens.analyses.neurons.top_texts",
    "composition": "layerlens.analyses.attention.composition",
    "head_channels": "layerlens.analyses.attention.head_channels",
    "clamp": "layerlens.analyses.neurons.clamp",
    "neuron_modules": "layerlens.analyses.neurons.neuron_modules",
    "neuron": "layerlens.analyses.neurons.neuron",
    "neuron_path": "layerlens.analyses.tracing.neuron_path",
    "neuron_tokens": "layerlens.analyses.neurons.neuron_tokens",
    "observable": "layerlens.analyses.contributions.observables",
    "series": "layerlens.analyses.measuring.series",
    "spectrum": "layerlens.analyses.measuring.spectrum",
    "head_clusters": "layerlens.analyses.attention.head_clusters",
    "head_roles": "layerlens.analyses.attention.head_roles",
    "expert_use": "layerlens.analyses.measuring.expert_use",
    "head_scores": "layerlens.analyses.measuring.head_scores",
    "token_attribution": "layerlens.analyses.attention.token_attribution",
    "export_notebook": "layerlens.export.notebook",
    "card": "layerlens.cards.make",
    "export_graph": "layerlens.analyses.circuits.graph_files",
    "import_graph": "layerlens.analyses.circuits.graph_files",
    "load_transcoders": "layerlens.analyses.circuits.transcoder_files",
    "export_transcoders": "layerlens.analyses.circuits.transcoder_files",
    "import_feature": "layerlens.analyses.features.page.page_files",
    "export_feature": "layerlens.analyses.features.page.page_files",
    "macro_influence": "layerlens.analyses.depth.macro_influence",
    "faithfulness": "layerlens.analyses.relevance.faithfulness",
    "linear_interpreter": "layerlens.analyses.relevance.linear_interpreter",
    "relevance": "layerlens.analyses.relevance.relevance",
    "residual_erasure": "layerlens.analyses.depth.residual_erasure",
    "out_of_distribution": "layerlens.analyses.information.out_of_distribution",
    "information_plane": "layerlens.analyses.information.information_plane",
    "neural_collapse": "layerlens.analyses.information.neural_collapse",
    "state_map": "layerlens.analyses.information.state_map",
    "bigram_layers": "layerlens.analyses.lenses.bigram_layers",
    "suppression": "layerlens.analyses.removal.suppression",
    "aligned_pairs": "layerlens.analyses.probing.aligned_pairs",
    "minimal_pairs": "layerlens.analyses.probing.minimal_pairs",
    "mlp_decomposition": "layerlens.analyses.contributions.mlp_decomposition",
    "block_jacobian": "layerlens.analyses.depth.block_jacobian",
    "quantisation_sensitivity": "layerlens.analyses.depth.quantisation_sensitivity",
    "finercut": "layerlens.analyses.depth.finercut",
    "first_cosine": "layerlens.analyses.depth.first_cosine",
    "voids": "layerlens.analyses.depth.void_layers",
    "checkpoint_difference": "layerlens.analyses.measuring.checkpoint_difference",
    "best_run": "layerlens.metrics.best_run",
    "analyses": "layerlens.analyses",
    "estimate": "layerlens.analyses.contract.registry",
    "Result": "layerlens.result",
    "beside": "layerlens.result.beside",
    "open": "layerlens.result:open_saved",
    "Fitted": "layerlens.result.fitted",
    "AttentionView": "layerlens.views",
    "CurvesView": "layerlens.views",
    "FeatureView": "layerlens.views",
    "GenerationView": "layerlens.views",
    "GraphView": "layerlens.views",
    "ScatterView": "layerlens.views",
    "StripView": "layerlens.views",
    "GridView": "layerlens.views",
    "terms": "layerlens.glossary",
    "LensView": "layerlens.views",
    "MetricsView": "layerlens.views",
    "PatchView": "layerlens.views",
    "explore": "layerlens.views.explore",
    "attention_heads": "layerlens.views.given_attention",
    "attention_patterns": "layerlens.views.given_attention",
    "head_view": "layerlens.views.given_attention",
    "model_view": "layerlens.views.given_attention",
    "doctor": "layerlens.checkup",
    "texts": "layerlens.corpus.texts",
    "images": "layerlens.model.inputs",
    "audio": "layerlens.model.inputs",
    "sides": "layerlens.model.inputs",
    "Texts": "layerlens.corpus.texts",
    "ActivationError": "layerlens.errors",
    "LayerLensError": "layerlens.errors",
    "ModelError": "layerlens.errors",
    "ProofError": "layerlens.errors",
    "InputError": "layerlens.errors",
    "SiteError": "layerlens.errors",
    "MemoryLimitError": "layerlens.errors",
    "ResultError": "layerlens.errors",
    "Cancelled": "layerlens.errors",
    "train_sae": "layerlens.analyses.features.training.train_sae",
    "feature_circuit": "layerlens.analyses.circuits.feature_circuit",
    "train_transcoder": "layerlens.analyses.features.training.train_transcoder",
    "load_sae": "layerlens.analyses.features.sae_files",
    "export_sae": "layerlens.analyses.features.sae_files",
    "sae_metrics": "layerlens.analyses.features.sae_metrics",
    "concepts": "layerlens.analyses.features.concepts.concepts",
    "facets": "layerlens.analyses.features.facets.facets",
    "feature": "layerlens.analyses.features.feature",
    "features": "layerlens.analyses.features.features",
    # Jupyter looks these two up by name.
    "_jupyter_labextension_paths": "layerlens.jupyter",
    "_jupyter_server_extension_points": "layerlens.jupyter",
}

__all__ = [
    "ActivationError",
    "AttentionView",
    "Cancelled",
    "CurvesView",
    "Edit",
    "FeatureView",
    "Fitted",
    "Generation",
    "GenerationView",
    "GraphView",
    "GridView",
    "InputError",
    "LayerLensError",
    "Layers",
    "LensModel",
    "LensView",
    "MemoryLimitError",
    "MetricsView",
    "ModelError",
    "PatchView",
    "ProofError",
    "Result",
    "ResultError",
    "Runs",
    "ScatterView",
    "Site",
    "SiteError",
    "Source",
    "StripView",
    "Texts",
    "Trace",
    "ablate_sweep",
    "aligned_pairs",
    "analyses",
    "attention",
    "attention_heads",
    "attention_patterns",
    "attention_probe",
    "attribution_patch",
    "audio",
    "back_patch",
    "beside",
    "best_run",
    "bigram_layers",
    "block_jacobian",
    "card",
    "causal_trace",
    "chain_of_layers",
    "checkpoint_difference",
    "clamp",
    "compare_models",
    "composition",
    "concepts",
    "contrast_layers",
    "cross_layer_sensitivity",
    "cross_model_patch",
    "delta_signs",
    "depth_score",
    "direct_logit_attribution",
    "doctor",
    "early_exit",
    "edge_attribution",
    "edit",
    "edits_from_json",
    "edits_to_json",
    "estimate",
    "expert_use",
    "explore",
    "export_feature",
    "export_graph",
    "export_jacobian_lens",
    "export_notebook",
    "export_sae",
    "export_transcoders",
    "export_tuned_lens",
    "facets",
    "faithfulness",
    "feature",
    "feature_circuit",
    "features",
    "finercut",
    "first_cosine",
    "fit_lens",
    "fourier",
    "frequency_tags",
    "generate_layers",
    "generation_lens",
    "gradient_norms",
    "head_channels",
    "head_clusters",
    "head_roles",
    "head_scores",
    "head_view",
    "hessian",
    "images",
    "import_feature",
    "import_graph",
    "import_jacobian_lens",
    "import_tuned_lens",
    "inflection_layers",
    "information_plane",
    "integrated_gradients",
    "interaction_basis",
    "interaction_graph",
    "invariance",
    "knockout",
    "language_track",
    "layer_gradients",
    "layer_metrics",
    "layer_mix",
    "layer_swap",
    "lens_difference",
    "lens_quality",
    "linear_interpreter",
    "load",
    "load_sae",
    "load_transcoders",
    "logit_lens",
    "macro_influence",
    "massive_ablation",
    "matchness",
    "metrics",
    "minimal_pairs",
    "mlp_decomposition",
    "mode_connectivity",
    "model_view",
    "neural_collapse",
    "neuron",
    "neuron_modules",
    "neuron_path",
    "neuron_tokens",
    "observable",
    "open",
    "out_of_distribution",
    "patch_sweep",
    "path_patch",
    "perturbation_growth",
    "probe",
    "probe_conditions",
    "probe_steering",
    "probe_tasks",
    "quantisation_sensitivity",
    "record",
    "relevance",
    "residual_erasure",
    "run",
    "run_layers",
    "sae_metrics",
    "sentence_scores",
    "series",
    "sides",
    "skip_layers",
    "skip_search",
    "source",
    "sparse_layers",
    "sparse_split",
    "spectrum",
    "state_map",
    "steering",
    "sticky_tokens",
    "stitch",
    "suppression",
    "terms",
    "texts",
    "token_attribution",
    "token_dispositions",
    "token_uncertainty",
    "top_texts",
    "train_sae",
    "train_transcoder",
    "translation_prompts",
    "voids",
]

try:
    __version__ = version("jupyter-layerlens")
except PackageNotFoundError:  # a checkout that was not installed
    __version__ = "0.0.0"


def load_ipython_extension(shell: Any) -> None:
    """Make ``%%lens`` and ``%layerlens`` known; ``%load_ext layerlens`` calls it."""
    from layerlens.jupyter.magics import LayerLensMagics

    shell.register_magics(LayerLensMagics)


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'layerlens' has no attribute {name!r}")
    module, _, attribute = _PLACES[name].partition(":")
    value = getattr(import_module(module), attribute or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
