"""Other ways to give every token a code, matched to a quantizer.

A baseline is a fitted quantizer like any other, so all that a lens does works on it. It has the
number of codes of the quantizer that it is compared with, the same target, and the mean target of
each code for a decoder, unless another one is asked for, which is trained on these codes. It reads
the same documents in the same stream: those that `clvq_lens.Lens.fit` would train on, with the same
held-out part left aside, as many tokens, and one frozen pass over them for usage and means. Give it
the decoder of the lens that it is compared with to compare codes, and the table to compare whole
methods. A single-layer VQ-VAE keeps the encoder that it learned; all others have the identity.

"k-means":
    scikit-learn's, from one k-means++ start.
"spherical k-means":
    Directions clustered by cosine, each scaled by the mean norm of its tokens.
"balanced k-means":
    Clusters of equal size in the sample that is clustered. Other tokens go to the nearest
    centroid, as everywhere, so shares are more even than those of k-means, and not equal.
"agglomerative":
    scikit-learn's Ward clustering; codes are the means of clusters.
"random codes":
    Code vectors are tokens drawn from the training data.
"single-layer VQ-VAE":
    The quantizer's own options, fitted to reconstruct the source in the place of the target.
"token identity":
    Reads token embeddings, and gives each of the most frequent tokens a code. Others go to the
    nearest embedding. It has fewer codes where the data have fewer different tokens.
"sparse autoencoder":
    Top-k features of the source (arXiv 2406.04093), each token reduced to its strongest one.
"transcoder":
    The same, with features of the source that explain the target.
"random sparse autoencoder", "random transcoder":
    The same with random encoders that are not trained, only what they are read out by
    (arXiv 2602.14111): what is left of a result if no feature was learned.
"k-means of the target":
    Reads the target itself, which no code of the source can see: what codes could reach at best.

An SAE or transcoder that was trained elsewhere is put beside a lens by `clvq_lens.from_sae`. It
has no kind of its own: its features are not fitted, and what it reads it says itself.

What is clustered is a uniform sample of at most 200,000 tokens; of 64 tokens per code for balanced
k-means, and of 10,000 for agglomerative clustering, whose memory grows with the square.
"""
