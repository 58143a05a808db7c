"""The contenders of the benchmarks: this library, its peers and the standard library, configured for the same work.

bars              the limits on the rows of `overhead`, and which peer each is a ratio to
by_hand           the patterns as one writes them with the standard library
clients           HTTP transports, ours and the peers'
limit_algorithms  published algorithms of adaptive limits
observers         what observes the calls of `observe`, and the same by hand
patterns          the rows of `overhead`: each pattern with ours and each peer's decorator
peers             the patterns built with other libraries
targets           the functions that get guarded, and where they are called
"""
