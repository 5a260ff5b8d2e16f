"""lm-eval's requests as ours."""

from lm_eval.models.utils import normalize_gen_kwargs

from pipeline.errors import ConfigError
from pipeline.requests import Generate, LogLikelihood, Request, Rolling

# What transformers' sampling does where a task does not say; lm-eval leaves it at that.
USUAL_TOP_K = 50


def request(instance) -> Request:
    """One of lm-eval's instances as a request."""
    match instance.request_type:
        case "loglikelihood":
            return LogLikelihood(*instance.args)
        case "loglikelihood_rolling":
            return Rolling(*instance.args)
        case "generate_until":
            return generation(*instance.args)
    raise ConfigError(f"lm-eval should ask for log-likelihoods or for texts, and asks for {instance.request_type}")


def generation(prompt: str, settings: dict) -> Generate:
    """One of lm-eval's requests for a text.

    until          stop strings
    max_gen_toks   256 where it does not say, as in its HFLM; its other names for it count too
    do_sample, temperature, top_k, top_p, num_beams
    Raises ConfigError for a setting that is not known here, and for sampling at temperature 0.
    """
    told = dict(normalize_gen_kwargs(settings, 256))
    temperature = float(told.pop("temperature", 0.0))
    sampled, until = told.pop("do_sample"), told.pop("until")
    if sampled and temperature <= 0:
        raise ConfigError(
            f"generation_kwargs should have a temperature above 0 with do_sample, found {temperature}: change the task"
        )
    asked = Generate(
        prompt,
        max_tokens=told.pop("max_gen_toks"),
        stop=tuple(stop for stop in until if stop),
        temperature=temperature if sampled else 0.0,
        top_k=int(told.pop("top_k", USUAL_TOP_K)) if sampled else 0,
        top_p=float(told.pop("top_p", 1.0)) if sampled else 1.0,
        beams=int(told.pop("num_beams", 1)),
    )
    unknown = sorted(set(told) - {"top_k", "top_p"})
    if unknown:
        raise ConfigError(
            f"generation_kwargs should hold until, max_gen_toks, do_sample, temperature, top_k, top_p or num_beams, "
            f"found {', '.join(unknown)}: change the task"
        )
    return asked
