"""Whether the load that is under way is a wake-up, of which the zygote knows and the handler of a model does not.

A request waits then. It makes all warm that made-up samples would, and shows what the model's output is like.
"""

request_waits = False
