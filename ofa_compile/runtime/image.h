/* Binary PPM files to normalised network inputs, in memory that does not grow with the file. */
#ifndef OFA_IMAGE_H
#define OFA_IMAGE_H

#include <stddef.h>
#include <stdio.h>

typedef struct {
    int height, width;    /* of the network's input */
    double crop_fraction; /* side of the centre crop / side of the largest one that fits */
    float mean[3], std[3];
} ofa_preprocessing;

/* Read one P6 image, cut its centre, resize it with an antialiased triangle filter and normalise
 * it into `output`, 3 planes of height x width. Return 0, or -1 with the reason in `reason`. */
int ofa_image_read(FILE *file, const ofa_preprocessing *preprocessing, float *output, char *reason,
                   size_t reason_size);

#endif
