"""Whether a suspect's scores carry our direction: residual, surrogates, evidence, plan, accounts."""
