"""Which of TransformerLens' tests are about hooks, and which of them a quantizer may change."""

FILES = (
    # hook points, and the models that have them
    "unit/test_hook_points.py",
    "unit/test_hook_introspection.py",
    "unit/test_hooked_root_module.py",
    "unit/test_use_attn_result.py",
    "unit/test_split_qkv.py",
    "unit/test_generate_no_tokenizer.py",
    "unit/utilities/test_parameter_swap.py",
    "integration/test_hooks.py",
    "integration/test_cache_hook_names.py",
    "integration/test_cache_pos_slice.py",
    "integration/test_start_at_layer.py",
    "integration/test_stop_at_layer.py",
    "integration/test_hooked_encoder_properties.py",
    "acceptance/test_hook_tokens.py",
    "acceptance/test_hooked_encoder.py",
    # bridges
    "unit/model_bridge/test_alias_collection_traversal.py",
    "unit/model_bridge/test_build_bridge_from_module.py",
    "unit/model_bridge/test_caching_hooks_aliases.py",
    "unit/model_bridge/test_caching_hooks_pos_slice_batch_dim.py",
    "unit/model_bridge/test_caching_remove_batch_dim.py",
    "unit/model_bridge/test_gated_hooks.py",
    "unit/model_bridge/test_hook_alias_fallback_chains.py",
    "unit/model_bridge/test_hook_set_enforcement.py",
    "unit/model_bridge/test_reset_hooks_registry.py",
    "unit/model_bridge/test_run_with_hooks_remove_batch_dim.py",
    "unit/model_bridge/test_state_dict_composition.py",
    "unit/model_bridge/test_bridge_generate_kv_cache.py",
    "integration/model_bridge/compatibility/test_bridge_hook_behavior.py",
    "integration/model_bridge/compatibility/test_bridge_cache_behavior.py",
    "integration/model_bridge/test_bridge_caching_hooks.py",
    "integration/model_bridge/test_bridge_hook_scope.py",
    "integration/model_bridge/test_bridge_layer_past_cache.py",
    "integration/model_bridge/test_bridge_run_with_cache_incl_bwd.py",
    "integration/model_bridge/test_bridge_run_with_cache_pos_slice.py",
    "integration/model_bridge/test_bridge_start_at_layer.py",
    "integration/model_bridge/test_bridge_stop_at_layer.py",
    "acceptance/model_bridge/compatibility/test_backward_hooks.py",
    "acceptance/model_bridge/compatibility/test_hook_duplication.py",
    "acceptance/model_bridge/compatibility/test_run_with_cache.py",
)
# as much time as all the others together; ``--all`` runs them too
SLOW_FILES = (
    "acceptance/model_bridge/compatibility/test_hook_completeness.py",
    "integration/test_kv_cache.py",
    "unit/model_bridge/test_hook_alias_resolution.py",
    "unit/model_bridge/test_component_hooks_fire.py",
    "unit/test_patching.py",
)

_AXIS = "HookedTransformer takes the second axis from the end for positions; codes are [batch, pos]"
_ALL_NAMES = "lists every name in the cache; the quantizer's own hook points are there too"
EXCEPTIONS = {
    "tests/integration/test_stop_at_layer.py::test_stop_at_layer_1": _ALL_NAMES,
    "tests/integration/test_cache_pos_slice.py::test_run_with_cache_pos_slice_keep_batch": _AXIS,
    "tests/integration/test_cache_pos_slice.py::test_run_with_cache_pos_slice_remove_batch": _AXIS,
    "tests/integration/test_cache_hook_names.py::test_cache_hook_names": _ALL_NAMES,
}
