"""Whether a request waits for the load that is under way, of which the zygote knows and a model's handler does not.

So it is where the load is a wake-up, or that of a further worker of a model that has one. The request makes all warm
that made-up samples would, and shows what the model's output is like; that the model runs has been seen.
"""

request_waits = False
